//! Posts events to a URL, as their sender would have posted them.

mod body;
mod headers;
mod retry_after;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use reqwest::{Response, StatusCode};
use tokio::time::{Instant, timeout_at};
use wwproxy_sdk::{AppId, EventMessage, HttpOptions};

pub(crate) use self::headers::{is_framing, sender_headers};
use self::{
    body::{CHUNK_BYTES, Chunked},
    headers::headers,
    retry_after::retry_after,
};
use super::{
    address::Address,
    http::{MAX_IDLE, TargetHttp, explain},
    outcome::TryOutcome,
};

/// The maximum of bytes of a response body that are read and dropped, to reuse the connection.
const MAX_DRAINED_BYTES: usize = 64 * 1024;
/// How long the body of an answer is read. After that its connection is closed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Posts events to a URL.
pub(crate) struct Forward {
    address: Address,
    options: HttpOptions,
    flags: TargetHttp,
    http: reqwest::Client,
    /// Opens a connection for each request.
    unpooled: reqwest::Client,
    /// The time of the last response: its connection may still be in the pool.
    last_response: Mutex<Option<Instant>>,
    /// Whether the protocol of the target has been probed.
    probed: AtomicBool,
    /// The app whose hook's path is appended to a URL that ends in `/`.
    app: Option<AppId>,
}

impl Forward {
    /// `server` has the HTTP options for the server. The path of the app's hook is appended to a URL that ends in `/`.
    pub(crate) fn new(
        address: Address,
        flags: TargetHttp,
        server: &HttpOptions,
        app: Option<&AppId>,
    ) -> anyhow::Result<Self> {
        let options = flags.options(&address, server);
        let (http, unpooled) =
            (flags.client(&address, &options)?, flags.unpooled_client(&address, &options)?);
        Ok(Self {
            address,
            options,
            flags,
            http,
            unpooled,
            last_response: Mutex::default(),
            probed: AtomicBool::new(false),
            app: app.cloned(),
        })
    }

    pub(super) async fn try_once(&self, event: &EventMessage, attempt: u32, timeout: Duration) -> TryOutcome {
        let start = Instant::now();
        let mut deliveries = 0;
        let body = Chunked::new(event.body.clone());
        let mut started = body.started();
        let mut response = self.post(&self.http, event, body, attempt, timeout).await;
        if let Err(error) = &response
            && is_broken_connection(error)
            && (self.may_reuse_connection(start) || event.body.len() > CHUNK_BYTES)
        {
            // Not a failure of the application: a pooled connection may have been closed meanwhile, or the response to a large event
            // was sent before its end was read. The event may have arrived, so it counts as a delivery.
            deliveries += u32::from(started.load(Ordering::Relaxed));
            let left = timeout.saturating_sub(start.elapsed());
            let body = Chunked::careful(event.body.clone());
            started = body.started();
            response = self.post(&self.unpooled, event, body, attempt.saturating_add(deliveries), left).await;
        }
        match response {
            Ok(response) => {
                let (status, retry_after) = (response.status(), retry_after(response.headers()));
                // The status decides. A slow body costs the connection, but little time.
                let deadline = (start + timeout).min(Instant::now() + DRAIN_TIMEOUT);
                let _ = timeout_at(deadline, drain(response)).await;
                *self.last_response.lock() = Some(Instant::now());
                TryOutcome {
                    accepted: status.is_success(),
                    answer: format!("{} POST {}{}", status.as_u16(), self.address, advice(status)),
                    reason: Some(format!("HTTP {}{}", status.as_u16(), advice(status))),
                    took: start.elapsed(),
                    retry_after,
                    deliveries: deliveries + 1,
                }
            }
            Err(error) => {
                let took = start.elapsed();
                // Before the connection asks for the body, nothing of the request was written.
                let deliveries = deliveries + u32::from(started.load(Ordering::Relaxed));
                let why = self.explain(&error).await;
                let reason = Some(format!("no answer: {why}"));
                let answer = format!("no answer from POST {}: {why}", self.address);
                TryOutcome { reason, took, deliveries, ..TryOutcome::failed(answer) }
            }
        }
    }

    async fn post(
        &self,
        http: &reqwest::Client,
        event: &EventMessage,
        body: Chunked,
        attempt: u32,
        timeout: Duration,
    ) -> reqwest::Result<Response> {
        let request =
            http.post(self.address.url_for(self.app.as_ref(), event)).headers(headers(event, attempt));
        request.body(reqwest::Body::wrap(body)).timeout(timeout).send().await
    }

    /// Describes an error. Probes once which protocol a target speaks that has never answered.
    async fn explain(&self, error: &reqwest::Error) -> String {
        let unknown = self.last_response.lock().is_none();
        let probes = unknown && !self.probed.swap(true, Ordering::Relaxed);
        explain(&self.address, &self.options, error, probes, unknown.then_some(self.flags)).await
    }

    /// Whether a request that started then may have used a pooled connection.
    fn may_reuse_connection(&self, start: Instant) -> bool {
        let answered = *self.last_response.lock();
        answered.is_some_and(|answered| start.duration_since(answered) < MAX_IDLE)
    }
}

/// Whether the connection broke before a response arrived.
fn is_broken_connection(error: &reqwest::Error) -> bool {
    !error.is_connect() && !error.is_timeout()
}

async fn drain(mut response: Response) {
    let mut bytes = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes += chunk.len();
        if bytes > MAX_DRAINED_BYTES {
            break;
        }
    }
}

/// Advice for a status that needs one.
fn advice(status: StatusCode) -> &'static str {
    if status.is_redirection() { " (redirects are not followed: give the final URL)" } else { "" }
}
