//! Signature headers of other senders. A webhook with an invalid signature often comes from one of these senders, for an app
//! that is registered for another scheme.

use std::fmt;

use http::HeaderMap;
use wwproxy_protocol::Scheme;

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

/// An invalid signature. Contains neither the signature nor the expected value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadSignature {
    scheme: Scheme,
    foreign: Option<(&'static str, &'static str)>,
}

impl BadSignature {
    pub(super) fn new(scheme: Scheme, headers: &HeaderMap) -> Self {
        let foreign = SIGNATURES.into_iter().find(|(_, header)| headers.contains_key(*header));
        Self { scheme, foreign }
    }

    /// The sender that the webhook probably comes from, and the scheme that the app expects, as a clause.
    pub(crate) fn hint(&self) -> Option<String> {
        let (sender, header) = self.foreign?;
        Some(format!("this looks like {sender}'s {header}; the app is registered for {}", self.scheme))
    }
}

impl fmt::Display for BadSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the signature is missing or not valid")?;
        self.hint().map_or(Ok(()), |hint| write!(f, ": {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn hint(header: &str) -> Option<String> {
        let name: HeaderName = header.parse().unwrap();
        let headers = [(name, HeaderValue::from_static("v0=secret"))].into_iter().collect();
        BadSignature::new(Scheme::WatsonWork, &headers).hint()
    }

    #[test]
    fn each_header_names_its_sender_and_never_its_value() {
        for (sender, header) in SIGNATURES {
            let hint = hint(header).unwrap();
            assert!(hint.contains(sender) && hint.contains(header) && !hint.contains("secret"), "{hint}");
        }
        assert_eq!(hint("x-outbound-token"), None);
    }
}
