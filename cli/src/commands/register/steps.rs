//! What a person does at each sender, as data: who makes the webhook secret, and what to click.

/// A sender, and how webhooks are set up there.
pub(crate) struct Sender {
    /// The schemes of its webhooks.
    pub(crate) schemes: &'static [&'static str],
    /// Its name.
    pub(crate) name: &'static str,
    /// Who makes the secret.
    pub(crate) secret: SecretOrigin,
    /// What to do there, in order. Empty if the sender has no steps of its own: see [`Sender::steps`].
    steps: &'static [&'static str],
}

/// Who makes the webhook secret.
#[derive(Clone, Copy)]
pub(crate) enum SecretOrigin {
    /// The owner of the app, who enters it at the sender: the name of the field there.
    Owner(&'static str),
    /// The sender: where it shows its secret or public key.
    Sender(&'static str),
    /// The sender, which sends it in a handshake.
    Handshake,
}

use SecretOrigin::{Handshake, Owner, Sender as BySender};

const SENDERS: &[Sender] = &[
    Sender {
        schemes: &["github"],
        name: "GitHub",
        secret: Owner("Secret"),
        steps: &[
            "in the repository or organisation: Settings, Webhooks, Add webhook",
            "Payload URL: the hook's URL; Content type: application/json; Secret: the webhook secret",
            "select the events and click Add webhook; GitHub sends a ping at once",
        ],
    },
    Sender {
        schemes: &["gitlab"],
        name: "GitLab",
        secret: BySender("project or group, Settings, Webhooks, Signing token (whsec_…)"),
        steps: &[
            "in the project or group: Settings, Webhooks, and the webhook with this signing token",
            "URL: the hook's URL; leave Enable SSL verification on; select the events under Trigger",
            "save it, and click Test to send a sample",
        ],
    },
    Sender {
        schemes: &["gitlab-token"],
        name: "GitLab",
        secret: Owner("Secret token"),
        steps: &[
            "in the project or group: Settings, Webhooks, Add new webhook",
            "URL: the hook's URL; Secret token: the webhook secret; select the events under Trigger",
            "save it, and click Test to send a sample",
        ],
    },
    Sender {
        schemes: &["gitea", "gitea-form", "forgejo", "gogs"],
        name: "Gitea, Forgejo or Gogs",
        secret: Owner("Secret"),
        steps: &[
            "in the repository or organisation: Settings, Webhooks, Add Webhook, and the type of your server",
            "Target URL: the hook's URL; HTTP Method: POST; POST Content Type: application/json",
            "Secret: the webhook secret; select the events, click Add Webhook, then Test Delivery",
        ],
    },
    Sender {
        schemes: &["stripe"],
        name: "Stripe",
        secret: BySender("Workbench, Webhooks, the endpoint, Signing secret (whsec_…)"),
        steps: &[
            "in the Dashboard: Workbench, Webhooks, Add destination, or edit the endpoint of this secret",
            "Endpoint URL: the hook's URL; select the events",
        ],
    },
    Sender {
        schemes: &["slack"],
        name: "Slack",
        secret: BySender("api.slack.com/apps, the app, Basic Information, App Credentials, Signing Secret"),
        steps: &[
            "at api.slack.com/apps, in the app: Event Subscriptions, Enable Events",
            "Request URL: the hook's URL; the server answers Slack's check, and the page shows Verified",
            "add the events under Subscribe to bot events, click Save Changes, and reinstall the app if asked",
        ],
    },
    Sender {
        schemes: &["shopify"],
        name: "Shopify",
        secret: BySender(
            "Dev Dashboard, the app, Settings, Client secret; or the key below the store's webhooks",
        ),
        steps: &[
            "for an app: add the hook's URL as the uri of [[webhooks.subscriptions]] in shopify.app.toml, and run shopify app deploy",
            "for a store: Settings, Notifications, Webhooks, Create webhook; Format: JSON; URL: the hook's URL",
        ],
    },
    Sender {
        schemes: &["linear"],
        name: "Linear",
        secret: BySender("Settings, API, the webhook, Signing secret"),
        steps: &[
            "as an admin of the workspace: Settings, API, New webhook, or edit the webhook of this secret",
            "URL: the hook's URL; select the teams and the data change events",
        ],
    },
    Sender {
        schemes: &["discord"],
        name: "Discord",
        secret: BySender("Developer Portal, the application, General Information, Public Key"),
        steps: &[
            "in the Developer Portal, in the application: Webhooks",
            "Endpoint URL: the hook's URL; Discord checks it with a PING, which the server answers",
            "turn on Events, select them, and click Save Changes",
        ],
    },
    Sender {
        schemes: &["twilio"],
        name: "Twilio",
        secret: BySender("Console, Account Info, Auth Token"),
        steps: &[
            "in the Console: the phone number, Configure, A message comes in, Webhook, HTTP POST",
            "URL: exactly the one of --url; the same for every StatusCallback",
        ],
    },
    Sender {
        schemes: &["standard-webhooks", "svix"],
        name: "the sender",
        secret: Owner("Signing secret"),
        steps: &[
            "in its settings: Webhooks, Add endpoint; URL: the hook's URL; select the events",
            "most senders show a secret of their own (whsec_…, or the public key whpk_…): register that one",
        ],
    },
    Sender {
        schemes: &["asana"],
        name: "Asana",
        secret: Handshake,
        steps: &["create the webhook with the API (POST /webhooks); target: the hook's URL"],
    },
    Sender {
        schemes: &["notion"],
        name: "Notion",
        secret: Handshake,
        steps: &[
            "in the integration's settings: Webhooks, Create a subscription; URL: the hook's URL",
            "enter the verification token that `wwproxy sources arm` prints",
        ],
    },
    Sender {
        schemes: &["meta"],
        name: "Meta",
        secret: BySender("App Dashboard, App settings, Basic, App secret"),
        steps: &[
            "in the App Dashboard, in the product: Configuration, Webhooks",
            "Callback URL: the hook's URL; Verify token: the secret of --challenge-secret-file",
        ],
    },
    brief(&["bitbucket"], "Bitbucket", Owner("Secret")),
    brief(&["bitbucket-server"], "Bitbucket", Owner("Secret")),
    brief(&["jira"], "Jira", Owner("Secret")),
    brief(&["webex"], "Webex", Owner("secret")),
    brief(&["calendly"], "Calendly", Owner("signing_key")),
    brief(&["typeform"], "Typeform", Owner("Secret")),
    brief(&["circleci"], "CircleCI", Owner("Secret token")),
    brief(&["okta"], "Okta", Owner("Authentication secret")),
    brief(&["msgraph"], "Microsoft Graph", Owner("clientState")),
    brief(&["telegram"], "Telegram", Owner("secret_token")),
    brief(&["zoom"], "Zoom", BySender("the app, Features, Secret Token")),
    brief(&["square"], "Square", BySender("Developer Console, the application, Webhooks, Signature key")),
    brief(&["paddle"], "Paddle", BySender("Developer tools, Notifications, the destination, Secret key")),
    brief(&["hubspot-v3"], "HubSpot", BySender("the app, Auth, Client secret")),
    brief(&["intercom"], "Intercom", BySender("Developer Hub, the app, Basic information, Client secret")),
    brief(&["sentry"], "Sentry", BySender("the integration, Credentials, Client Secret")),
    brief(
        &["pagerduty-v3"],
        "PagerDuty",
        BySender("the page that is shown once when the webhook is created"),
    ),
    brief(
        &["sendgrid"],
        "SendGrid",
        BySender("Mail Settings, Event Webhook, Signature Verification, Public Key"),
    ),
    brief(&["mailgun"], "Mailgun", BySender("API security, HTTP webhook signing key")),
    brief(&["docusign"], "DocuSign", BySender("Connect, Connect keys, Add Secret Key")),
    brief(&["zendesk"], "Zendesk", BySender("the webhook, Signing secret, Reveal secret")),
    brief(
        &["adyen-platform", "adyen-payments"],
        "Adyen",
        BySender("the webhook, Security, HMAC key, Generate"),
    ),
    brief(&["trello"], "Trello", BySender("the Power-Up's page, API key, Secret")),
    brief(&["dropbox"], "Dropbox", BySender("App Console, the app, Settings, App secret")),
    brief(
        &["teams-outgoing"],
        "Microsoft Teams",
        BySender("the page that is shown once when the webhook is created"),
    ),
    brief(
        &["line"],
        "LINE",
        BySender("LINE Developers Console, the channel, Basic settings, Channel secret"),
    ),
    brief(&["x"], "X", BySender("Developer Portal, the app, Keys and tokens, API Key Secret")),
];

/// A sender without steps of its own.
const fn brief(schemes: &'static [&'static str], name: &'static str, secret: SecretOrigin) -> Sender {
    Sender { schemes, name, secret, steps: &[] }
}

impl Sender {
    /// The sender of a scheme.
    pub(crate) fn of(scheme: &str) -> Option<&'static Self> {
        SENDERS.iter().find(|sender| sender.schemes.contains(&scheme))
    }

    /// What to do at the sender, one line a step.
    pub(crate) fn steps(&self) -> Vec<String> {
        if !self.steps.is_empty() {
            return self.steps.iter().map(|&step| step.to_owned()).collect();
        }
        let url = "in the settings of webhooks, enter the hook's URL".to_owned();
        match self.secret {
            Owner(field) => vec![format!("{url}, and the webhook secret as {field}")],
            BySender(place) => vec![url, format!("the registered secret must be the one there: {place}")],
            Handshake => vec![url],
        }
    }
}

#[cfg(test)]
mod tests {
    use wwproxy_sdk::scheme::{Scheme, presets};

    use super::*;

    #[test]
    fn each_preset_except_watson_work_has_one_sender() {
        for preset in presets().filter(|preset| preset.name != "watsonwork") {
            let senders = SENDERS.iter().filter(|sender| sender.schemes.contains(&preset.name.as_str()));
            assert_eq!(senders.count(), 1, "{}", preset.name);
            assert!(!Sender::of(&preset.name).unwrap().steps().is_empty());
        }
    }

    #[test]
    fn a_secret_of_the_owner_can_be_generated() {
        for preset in presets() {
            let scheme = Scheme::preset(&preset.name).unwrap();
            let generated = scheme.generate_secret();
            match Sender::of(&preset.name).map(|sender| sender.secret) {
                Some(Owner(_)) | None => assert!(generated.is_ok(), "{}", preset.name),
                Some(Handshake) => assert!(scheme.learns_secret(), "{}", preset.name),
                // The secret of many senders could be generated, but cannot be entered there.
                Some(BySender(_)) => assert!(!scheme.learns_secret(), "{}", preset.name),
            }
        }
    }
}
