//! Posts one webhook: signs it, sends it, and checks the response.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use reqwest::{
    Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
};
use serde_json::Value;
use wwproxy_sdk::{
    Bytes, EventMessage, HttpOptions, Secret,
    hook::{OUTBOUND_INDEX, OUTBOUND_RETRY_COUNT, OUTBOUND_TOKEN},
    sign_watson_work, verify_watson_work,
};

use super::sample;
use crate::{
    error::Refusal,
    output::print_message,
    target::{Address, TargetHttp, explain, sender_headers},
};

/// The largest response body that is read, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// The content type of Watson Work's webhooks.
const JSON: HeaderValue = HeaderValue::from_static("application/json;charset=UTF-8");

/// The destination of webhooks.
pub(super) struct Hook {
    http: reqwest::Client,
    options: HttpOptions,
    address: Address,
    timeout: Duration,
    /// The flags of a target that is not the server.
    flags: Option<TargetHttp>,
    /// These replace headers of the same name.
    headers: HeaderMap,
}

impl Hook {
    pub(super) fn new(
        address: Address,
        http: reqwest::Client,
        options: HttpOptions,
        timeout: Duration,
        flags: Option<TargetHttp>,
        headers: HeaderMap,
    ) -> Self {
        Self { http, options, address, timeout, flags, headers }
    }

    pub(super) fn display(&self) -> String {
        self.address.to_string()
    }

    /// Posts a body, signed if there is a secret, with the headers of a saved event.
    pub(super) async fn post(
        &self,
        body: Bytes,
        saved: Option<&EventMessage>,
        secret: Option<&Secret>,
        index: u64,
    ) -> Result<(), Refusal> {
        let mut headers = saved.map(sender_headers).unwrap_or_default();
        headers.entry(header::CONTENT_TYPE).or_insert(JSON);
        // A new index: with the saved one the server's deduplication would drop the webhook.
        headers.insert(OUTBOUND_INDEX, index.into());
        headers.insert(OUTBOUND_RETRY_COUNT, HeaderValue::from_static("0"));
        if let Some(secret) = secret {
            sign(&mut headers, secret, &body);
        }
        let mut url = self.address.url.clone();
        if let Some(query) = saved.and_then(|event| event.details.query.as_deref()) {
            url.set_query(Some(query));
        }
        let response = self.send(url, headers, body).await?;
        let status = response.status();
        if status.is_success() {
            // Read to the end, so that the connection can be reused.
            let _ = read(response).await;
            return Ok(());
        }
        let answer = read(response).await.unwrap_or_default();
        let detail = serde_json::from_slice::<Value>(&answer).ok();
        let detail = detail.as_ref().and_then(|problem| problem["detail"].as_str());
        let detail = detail.filter(|detail| !detail.is_empty()).map(|detail| format!(": {detail}"));
        Err(Refusal {
            status: Some(status),
            message: format!("the hook answered {status}{}", detail.unwrap_or_default()),
        })
    }

    /// Sends a challenge and checks the response as the platform does.
    pub(super) async fn challenge(&self, secret: &Secret) -> anyhow::Result<()> {
        let challenge = sample::token();
        let body =
            Bytes::from(serde_json::json!({"type": "verification", "challenge": challenge}).to_string());
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, JSON);
        sign(&mut headers, secret, &body);
        let response = self.send(self.address.url.clone(), headers, body).await?;
        let status = response.status();
        let signature = response.headers().get(OUTBOUND_TOKEN).cloned();
        let answer = read(response).await.context("the response to the challenge is incomplete")?;
        if status != StatusCode::OK {
            return Err(Refusal {
                status: Some(status),
                message: format!("the challenge was answered {status}, not 200"),
            }
            .into());
        }
        let expected = serde_json::json!({ "response": challenge });
        if serde_json::from_slice::<Value>(&answer).ok() != Some(expected) {
            return Err(anyhow!("the response to the challenge is not {{\"response\":<the challenge>}}"));
        }
        let signed = signature.is_some_and(|it| verify_watson_work(secret, &answer, it.as_bytes()));
        if !signed {
            return Err(anyhow!(
                "the response to the challenge is not signed with the webhook secret (X-OUTBOUND-TOKEN)"
            ));
        }
        print_message(&format!("{} answered the challenge", self.display()));
        Ok(())
    }

    async fn send(&self, url: Url, mut headers: HeaderMap, body: Bytes) -> Result<Response, Refusal> {
        // `extend` replaces all values of a name.
        headers.extend(self.headers.clone());
        let request = self.http.post(url).headers(headers).body(body).timeout(self.timeout);
        match request.send().await {
            Ok(response) => Ok(response),
            Err(error) => {
                let reason = explain(&self.address, &self.options, &error, true, self.flags).await;
                Err(Refusal {
                    status: None,
                    message: format!("{} cannot be reached: {reason}", self.display()),
                })
            }
        }
    }
}

fn sign(headers: &mut HeaderMap, secret: &Secret, body: &[u8]) {
    let signature = sign_watson_work(secret, body);
    headers.insert(OUTBOUND_TOKEN, HeaderValue::from_str(&signature).expect("hex is a header's value"));
}

async fn read(mut response: Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_RESPONSE_BYTES {
            return Err(anyhow!("the response is longer than {MAX_RESPONSE_BYTES} bytes"));
        }
    }
    Ok(body)
}
