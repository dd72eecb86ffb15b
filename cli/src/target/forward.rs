//! Posts events to a URL, as their sender would have posted them.

mod body;
mod headers;
mod retry_after;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use reqwest::{Response, StatusCode, Url};
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
                    took: start.elapsed(),
                    retry_after,
                    deliveries: deliveries + 1,
                }
            }
            Err(error) => {
                let took = start.elapsed();
                // Before the connection asks for the body, nothing of the request was written.
                let deliveries = deliveries + u32::from(started.load(Ordering::Relaxed));
                TryOutcome { took, deliveries, ..TryOutcome::failed(self.explain(&error).await) }
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
        let request = http.post(self.url_for(event)).headers(headers(event, attempt));
        request.body(reqwest::Body::wrap(body)).timeout(timeout).send().await
    }

    /// Describes an error. Probes once which protocol a target speaks that has never answered.
    async fn explain(&self, error: &reqwest::Error) -> String {
        let unknown = self.last_response.lock().is_none();
        let probes = unknown && !self.probed.swap(true, Ordering::Relaxed);
        let reason =
            explain(&self.address, &self.options, error, probes, unknown.then_some(self.flags)).await;
        format!("no answer from POST {}: {reason}", self.address)
    }

    /// Whether a request that started then may have used a pooled connection.
    fn may_reuse_connection(&self, start: Instant) -> bool {
        let answered = *self.last_response.lock();
        answered.is_some_and(|answered| start.duration_since(answered) < MAX_IDLE)
    }

    /// The target's URL with the query of the original request, and its path: all of it if the URL ends in `/`, otherwise what is
    /// after the hook of the source.
    fn url_for(&self, event: &EventMessage) -> Url {
        let mut url = self.address.url.clone();
        let hook = self.app.as_ref().filter(|_| self.address.append);
        let hook = hook.map(|app| wwproxy_sdk::source_hook_path(app, event.source())).unwrap_or_default();
        let tail = event.tail().filter(|tail| stays_below(tail)).unwrap_or_default();
        if !hook.is_empty() || !tail.is_empty() {
            let path = url.path().strip_suffix('/').unwrap_or(url.path());
            url.set_path(&format!("{path}{hook}{tail}"));
        }
        if let Some(query) = &event.details.query {
            let own = url.query().map(|own| format!("{own}&")).unwrap_or_default();
            url.set_query(Some(&(own + query)));
        }
        url
    }
}

/// Whether a path that the sender chose stays below the one that it is appended to, also if the target decodes it: no segment is `.` or
/// `..`, with or without parameters (`..;a`).
fn stays_below(tail: &str) -> bool {
    let decoded = tail.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    let mut segments =
        decoded.split(['/', '\\']).map(|segment| segment.split(';').next().unwrap_or_default());
    // `Url` removes tabs and line breaks.
    tail.starts_with('/')
        && !tail.contains(char::is_control)
        && segments.all(|part| part != "." && part != "..")
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The URL for an event with these members.
    fn url(target: &str, members: &str) -> String {
        let event =
            EventMessage::parse(&format!(r#"{{"id":"1","attempt":1,{members},"data":{{}}}}"#)).unwrap();
        let (address, app) = (Address::parse(target).unwrap(), "my-bot".parse().unwrap());
        let forward = Forward::new(address, TargetHttp::default(), &HttpOptions::new(), Some(&app));
        forward.unwrap().url_for(&event).to_string()
    }

    #[test]
    fn the_query_and_the_path_after_the_hook_are_appended_and_after_a_slash_the_whole_path() {
        let old = r#""query":"a=1&b=%20""#;
        assert_eq!(url("http://h/x/", old), "http://h/x/hook/my-bot?a=1&b=%20");
        assert_eq!(url("http://h/x", old), "http://h/x?a=1&b=%20");
        assert_eq!(url("http://h/x?own=1", old), "http://h/x?own=1&a=1&b=%20");
        assert_eq!(url("3000", r#""source":"default""#), "http://localhost:3000/");
        let new = r#""source":"repo","tail":"/a%20b/c""#;
        assert_eq!(url("3000", new), "http://localhost:3000/a%20b/c");
        assert_eq!(url("http://h/x", new), "http://h/x/a%20b/c");
        assert_eq!(url("http://h/x/", new), "http://h/x/hook/my-bot/repo/a%20b/c");
        assert_eq!(url("http://h/x/", r#""source":"default""#), "http://h/x/hook/my-bot");
    }

    #[test]
    fn a_path_of_the_sender_cannot_leave_the_path_of_the_target_or_its_host() {
        for tail in [
            "/..",
            "/../admin",
            "/a/../../admin",
            "/%2e%2E/admin",
            "/.%2e/admin",
            "/..%2fadmin",
            "/..%5Cadmin",
            "/..;x/admin",
            "/a/.",
            "..",
            "@evil/",
            "evil.example",
            "/.\\t./admin",
            "/..\\\\admin",
        ] {
            let shown = url("http://h/hooks", &format!(r#""source":"repo","tail":"{tail}""#));
            assert_eq!(shown, "http://h/hooks", "{tail}");
        }
        for (tail, path) in [
            ("//evil.example/x", "//evil.example/x"),
            ("/@evil.example", "/@evil.example"),
            ("/a?b#c", "/a%3Fb%23c"),
            ("/a..b/...", "/a..b/..."),
        ] {
            let shown = url("http://h/hooks", &format!(r#""source":"repo","tail":"{tail}""#));
            assert_eq!(shown, format!("http://h/hooks{path}"));
            let shown = url("3000", &format!(r#""source":"repo","tail":"{tail}""#));
            assert_eq!(shown, format!("http://localhost:3000{path}"));
        }
        assert_eq!(url("http://h/x", r#""query":"a#b c""#), "http://h/x?a%23b%20c");
    }
}
