//! A Watson Work platform that posts the webhooks of one app.

use anyhow::{Context, ensure};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use wwproxy_protocol::{Secret, api::OUTBOUND_TOKEN, verify_watson_work};

/// The secret that signs the app's webhooks.
pub(crate) const WEBHOOK_SECRET: &str = "k3n9v0q2w8e7r6t5y4u1i0o9p8a7s6d5";

const VERIFICATION: &str = include_str!("../../fixtures/watsonwork/verification.json");
const EVENTS: [&str; 4] = [
    include_str!("../../fixtures/watsonwork/space-members-added.json"),
    include_str!("../../fixtures/watsonwork/message-created.json"),
    include_str!("../../fixtures/watsonwork/message-annotation-added.actionSelected.json"),
    include_str!("../../fixtures/watsonwork/reaction-added.json"),
];

pub(crate) struct Platform {
    hook: String,
    http: Client,
}

impl Platform {
    pub(crate) fn new(hook: String) -> anyhow::Result<Self> {
        // The result is ignored: only a second installation in this process would fail.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self { hook, http: Client::builder().no_proxy().tls_certs_only([]).build()? })
    }

    /// Posts a verification challenge, as the platform does before it posts events, and checks the signature of the
    /// response.
    pub(crate) async fn verify_hook(&self) -> anyhow::Result<()> {
        let response = self.post(VERIFICATION).await?;
        ensure!(response.status() == StatusCode::OK, "the challenge was answered {}", response.status());
        let signature = response.headers().get(OUTBOUND_TOKEN).context("the response is not signed")?.clone();
        let body = response.bytes().await?;
        let secret = Secret::new(WEBHOOK_SECRET);
        ensure!(
            verify_watson_work(&secret, &body, signature.as_bytes()),
            "the signature of the response is wrong"
        );
        println!("platform: the hook answered its challenge");
        Ok(())
    }

    /// Posts signed events, and returns their number.
    pub(crate) async fn post_events(&self) -> anyhow::Result<usize> {
        for event in EVENTS {
            let response = self.post(event).await?;
            ensure!(response.status() == StatusCode::CREATED, "an event was answered {}", response.status());
        }
        println!("platform: {} events posted, each answered 201", EVENTS.len());
        Ok(EVENTS.len())
    }

    /// Sends the request of a fixture: its headers, and its body byte for byte.
    async fn post(&self, fixture: &str) -> anyhow::Result<reqwest::Response> {
        let fixture: Value = serde_json::from_str(fixture)?;
        let mut request = self.http.post(&self.hook);
        for (name, value) in fixture["request"]["headers"].as_object().context("a fixture has headers")? {
            request = request.header(name, value.as_str().context("a header is a text")?);
        }
        let body = fixture["request"]["body_raw"].as_str().context("a fixture has a body")?;
        Ok(request.body(body.to_owned()).send().await?)
    }
}
