//! Posts one webhook, and checks the response.

use std::time::Duration;

use anyhow::anyhow;
use reqwest::{Method, Response, Url, header::HeaderMap};
use serde_json::Value;
use wwproxy_sdk::{AppId, Bytes, EventMessage, HttpOptions};

use crate::{
    error::Refusal,
    target::{Address, TargetHttp, explain},
};

/// The largest response body that is read, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The destination of webhooks.
pub(super) struct Hook {
    http: reqwest::Client,
    options: HttpOptions,
    address: Address,
    /// The app whose hook's path is appended to a URL that ends in `/`.
    app: Option<AppId>,
    timeout: Duration,
    /// The flags of a target that is not the server.
    flags: Option<TargetHttp>,
    /// These replace headers of the same name.
    headers: HeaderMap,
}

/// A request to post.
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Hook {
    pub(super) fn new(
        address: Address,
        app: Option<AppId>,
        http: reqwest::Client,
        options: HttpOptions,
        timeout: Duration,
        flags: Option<TargetHttp>,
        headers: HeaderMap,
    ) -> Self {
        Self { http, options, address, app, timeout, flags, headers }
    }

    /// The destination, and of an event its path and query in addition, as `listen` forwards it.
    pub(super) fn url(&self, event: Option<&EventMessage>) -> Url {
        event.map_or_else(|| self.address.url.clone(), |event| self.address.url_for(self.app.as_ref(), event))
    }

    pub(super) fn display(&self) -> String {
        self.address.to_string()
    }

    /// The headers that replace others.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Posts a webhook.
    pub(super) async fn post(&self, request: Outgoing) -> Result<(), Refusal> {
        let response = self.send(request).await?;
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

    pub(super) async fn send(&self, mut request: Outgoing) -> Result<Response, Refusal> {
        // `extend` replaces all values of a name.
        request.headers.extend(self.headers.clone());
        let Outgoing { method, url, headers, body } = request;
        let request = self.http.request(method, url).headers(headers).body(body).timeout(self.timeout);
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

pub(super) async fn read(mut response: Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_RESPONSE_BYTES {
            return Err(anyhow!("the response is longer than {MAX_RESPONSE_BYTES} bytes"));
        }
    }
    Ok(body)
}
