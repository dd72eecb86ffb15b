//! A sender of signed webhooks, such as a GitHub repository.

use std::time::SystemTime;

use anyhow::{Context, ensure};
use reqwest::{Client, Response, header::CONTENT_TYPE};
use wwproxy_sdk::{
    Secret, SourceSettings,
    hook::OUTBOUND_TOKEN,
    scheme::{Scheme, Unsigned, new_delivery_id},
    verify_watson_work,
};

pub(crate) struct Sender {
    name: String,
    /// How this sender signs.
    scheme: Scheme,
    secret: Secret,
    /// The URL of its hook.
    hook: String,
    http: Client,
}

impl Sender {
    /// A sender with a new secret.
    pub(crate) fn new(scheme: &str, hook: String) -> anyhow::Result<Self> {
        // The result is ignored: only a second installation in this process would fail.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder().no_proxy().tls_certs_only([]).build()?;
        let name = scheme.to_owned();
        let scheme = Scheme::preset(scheme).context("an unknown scheme")?;
        Ok(Self { name, secret: scheme.generate_secret()?, scheme, hook, http })
    }

    /// An attacker that knows the hook, but not the secret.
    pub(crate) fn forger(self) -> anyhow::Result<Self> {
        Ok(Self { name: "forger".to_owned(), secret: self.scheme.generate_secret()?, ..self })
    }

    /// What the app registers, so that the server verifies the webhooks of this sender.
    pub(crate) fn settings(&self) -> SourceSettings {
        SourceSettings {
            scheme: self.scheme.name().to_owned(),
            secrets: vec![self.secret.clone()],
            ..SourceSettings::default()
        }
    }

    /// Posts a sample of this type, and returns the status of the answer.
    pub(crate) async fn post(&self, event_type: &str) -> anyhow::Result<u16> {
        let sample = self.scheme.sample(event_type, SystemTime::now()).context("no sample of this type")?;
        let response = self.post_body(event_type, sample.content_type, &sample.body).await?;
        let status = response.status();
        println!("{:<11} posted {event_type}, answered {}", self.label(), status.as_u16());
        Ok(status.as_u16())
    }

    /// Posts a challenge, as Watson Work does before it posts events, and verifies the signature of the answer.
    pub(crate) async fn challenge(&self) -> anyhow::Result<()> {
        let challenge = r#"{"type":"verification","challenge":"k3n9v0q2"}"#;
        let response = self.post_body("verification", "application/json", challenge).await?;
        let signature = response.headers().get(OUTBOUND_TOKEN).context("the answer is not signed")?.clone();
        let answer = response.bytes().await?;
        ensure!(verify_watson_work(&self.secret, &answer, signature.as_bytes()), "the signature is wrong");
        println!("{:<11} posted a challenge, answered {}", self.label(), String::from_utf8_lossy(&answer));
        Ok(())
    }

    /// Signs a body and posts it.
    async fn post_body(&self, event_type: &str, content_type: &str, body: &str) -> anyhow::Result<Response> {
        let signed = self.scheme.sign(
            &self.secret,
            &Unsigned {
                method: "POST",
                url: None,
                headers: &[(CONTENT_TYPE.as_str(), content_type)],
                body: body.as_bytes(),
                delivery_id: &new_delivery_id(),
                event_type: Some(event_type),
                time: SystemTime::now(),
            },
        )?;
        let mut request = self.http.post(&self.hook).header(CONTENT_TYPE, content_type);
        for (name, value) in signed.headers {
            request = request.header(name, value);
        }
        Ok(request.body(body.to_owned()).send().await?)
    }

    fn label(&self) -> String {
        format!("{}:", self.name)
    }
}
