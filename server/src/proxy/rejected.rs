//! A webhook that its source rejected, and the signature headers of other senders. A webhook with an invalid signature often
//! comes from one of these senders, for a source of another scheme.

use std::fmt;

use http::HeaderMap;
use wwproxy_protocol::scheme::{Check, Rejection, Scheme};

/// Senders, each with the header of its signature or token. A sender that also sends the header of another one comes first.
const SIGNATURES: [(&str, &str); 37] = [
    ("Forgejo", "X-Forgejo-Signature"),
    ("Gitea", "X-Gitea-Signature"),
    ("Gogs", "X-Gogs-Signature"),
    ("GitHub", "X-Hub-Signature-256"),
    ("Bitbucket", "X-Hub-Signature"),
    ("GitLab", "X-Gitlab-Token"),
    ("Stripe", "Stripe-Signature"),
    ("Slack", "X-Slack-Signature"),
    ("Shopify", "X-Shopify-Hmac-Sha256"),
    ("Shopify", "Shopify-Hmac-Sha256"),
    ("Webex", "X-Spark-Signature"),
    ("Zoom", "X-Zm-Signature"),
    ("Linear", "Linear-Signature"),
    ("Square", "X-Square-HmacSha256-Signature"),
    ("Twilio", "X-Twilio-Signature"),
    ("SendGrid", "X-Twilio-Email-Event-Webhook-Signature"),
    ("Discord", "X-Signature-Ed25519"),
    ("Svix", "Svix-Signature"),
    ("Standard Webhooks", "Webhook-Signature"),
    ("Paddle", "Paddle-Signature"),
    ("HubSpot", "X-HubSpot-Signature-v3"),
    ("HubSpot", "X-HubSpot-Signature"),
    ("Sentry", "Sentry-Hook-Signature"),
    ("PagerDuty", "X-PagerDuty-Signature"),
    ("DocuSign", "X-DocuSign-Signature-1"),
    ("Calendly", "Calendly-Webhook-Signature"),
    ("Typeform", "Typeform-Signature"),
    ("Zendesk", "X-Zendesk-Webhook-Signature"),
    ("Adyen", "HmacSignature"),
    ("PayPal", "PayPal-Transmission-Sig"),
    ("Asana", "X-Hook-Signature"),
    ("Trello", "X-Trello-Webhook"),
    ("Dropbox", "X-Dropbox-Signature"),
    ("Notion", "X-Notion-Signature"),
    ("CircleCI", "Circleci-Signature"),
    ("Telegram", "X-Telegram-Bot-Api-Secret-Token"),
    ("LINE", "X-Line-Signature"),
];

/// Why a source rejected a webhook. Contains neither the signature nor the expected value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejected {
    pub(crate) rejection: Rejection,
    hint: Option<String>,
}

impl Rejected {
    pub(super) fn new(rejection: Rejection, scheme: &Scheme, headers: &HeaderMap) -> Self {
        let is_signature = !matches!(rejection.check, Check::Form | Check::Challenge);
        let hint = is_signature.then(|| hint(scheme, headers)).flatten();
        Self { rejection, hint }
    }
}

/// The sender that the webhook probably comes from, and the scheme of the source, as a clause. None if it is a sender of this
/// scheme: several senders share a header.
fn hint(scheme: &Scheme, headers: &HeaderMap) -> Option<String> {
    let (sender, header) = SIGNATURES.into_iter().find(|(_, header)| headers.contains_key(*header))?;
    let text =
        || format!("this looks like {sender}'s {header}; the source is registered for {}", scheme.name());
    (!scheme.is_signature_header(header)).then(text)
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rejection)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn hint_of(scheme: &str, header: &str) -> Option<String> {
        let name: HeaderName = header.parse().unwrap();
        let headers = [(name, HeaderValue::from_static("v0=secret"))].into_iter().collect();
        hint(&Scheme::preset(scheme).unwrap(), &headers)
    }

    #[test]
    fn each_header_names_its_sender_and_never_its_value() {
        for (sender, header) in SIGNATURES {
            let hint = hint_of("watsonwork", header).unwrap();
            assert!(hint.contains(sender) && hint.contains(header) && !hint.contains("secret"), "{hint}");
        }
        assert_eq!(hint_of("watsonwork", "x-outbound-token"), None);
        assert_eq!(hint_of("github", "X-Hub-Signature-256"), None);
        assert_eq!(hint_of("standard-webhooks", "Webhook-Signature"), None);
        assert!(hint_of("line", "Linear-Signature").unwrap().contains("Linear"));
        // Headers that several senders share.
        for (scheme, header) in [
            ("meta", "X-Hub-Signature-256"),
            ("jira", "X-Hub-Signature"),
            ("intercom", "X-Hub-Signature"),
            ("gitlab", "Webhook-Signature"),
            ("docusign", "X-DocuSign-Signature-1"),
        ] {
            assert_eq!(hint_of(scheme, header), None, "{scheme}");
        }
    }
}
