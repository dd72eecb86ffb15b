//! An event posted to a URL, as its sender would have posted it there.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use reqwest::{
    Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use tokio::time::{Instant, timeout_at};
use wwproxy_sdk::{EventMessage, HttpOptions, hook::HOP_BY_HOP};

use super::Try;
use crate::args::Usage;

/// Of an answer's body so much is read and dropped, in bytes, so that its connection can be used again.
const MAX_DRAINED_BYTES: usize = 64 * 1024;
/// The event's name, in every request.
const EVENT_ID: HeaderName = HeaderName::from_static("wwproxy-event-id");
/// How often the target may have seen the event, this time included.
const ATTEMPT: HeaderName = HeaderName::from_static("wwproxy-attempt");
/// To which host the sender posted.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The prefix of what is said here, and cannot be said by a sender.
const OWN_PREFIX: &str = "wwproxy-";

/// Posts events to a URL.
pub(crate) struct Forward {
    http: reqwest::Client,
    url: Url,
    /// The path that the original request had, without its slash, where it goes after the URL.
    append: Option<String>,
    /// The URL as it is shown: without credentials.
    shown: String,
}

/// A URL to forward to: a bare port and `host:port` are http.
pub(crate) fn parse_url(text: &str) -> Result<(Url, bool), String> {
    let wrong = |why: &str| format!("{why}; give one such as http://127.0.0.1:3000/hook, or a bare port");
    let full = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let port: u16 = text.parse().map_err(|_| wrong("there is no such port"))?;
        format!("http://127.0.0.1:{port}")
    } else if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&full).map_err(|error| wrong(&format!("this is no URL ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("the URL must start with http:// or https://"));
    }
    Ok((url, full.ends_with('/')))
}

impl Forward {
    /// Forwards to a URL that [`parse_url`] took; `path` is that of the hook, which goes after a URL that ends in `/`.
    pub(crate) fn new(text: &str, http: &HttpOptions, path: Option<&str>) -> anyhow::Result<Self> {
        let (url, append) = parse_url(text).map_err(Usage)?;
        let (http, shown) = (client(&url, http)?, shown(&url));
        let append = append.then(|| path.unwrap_or_default().trim_start_matches('/').to_owned());
        Ok(Self { http, url, append, shown })
    }

    pub(super) async fn try_once(&self, event: &EventMessage, attempt: u32, timeout: Duration) -> Try {
        let start = Instant::now();
        let request = self
            .http
            .post(self.url_for(event))
            .headers(headers(event, attempt))
            .body(event.body.clone())
            .timeout(timeout);
        let answered = match request.send().await {
            Ok(response) => {
                let (status, retry_after) = (response.status(), retry_after(response.headers()));
                // The verdict stands; a slow rest of the answer may cost the connection, and no more time than allowed.
                let _ = timeout_at(start + timeout, drain(response)).await;
                Ok((status, retry_after))
            }
            Err(error) => Err(error),
        };
        let took = start.elapsed();
        let (accepted, answer, retry_after) = match answered {
            Ok((status, retry_after)) => (
                status.is_success(),
                format!("{} POST {}{}", status.as_u16(), self.shown, hint(status)),
                retry_after,
            ),
            Err(error) => (false, format!("{} POST {}", trouble(&error), self.shown), None),
        };
        Try { accepted, answer, took, retry_after }
    }

    fn url_for(&self, event: &EventMessage) -> Url {
        let mut url = self.url.clone();
        if let Some(path) = &self.append {
            url.set_path(&format!("{}{path}", self.url.path()));
            url.set_query(event.details.query.as_deref().or(self.url.query()));
        }
        url
    }
}

/// A client for a target.
pub(crate) fn client(url: &Url, http: &HttpOptions) -> anyhow::Result<reqwest::Client> {
    // What is on this machine is not behind any proxy, whatever the environment says.
    let http = if is_here(url) { http.clone().no_proxy() } else { http.clone() };
    let agent = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
    http.client_builder()?.user_agent(agent).build().context("cannot set up HTTP")
}

/// A URL without credentials.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Only a URL without a host refuses these.
    let _ = (url.set_username(""), url.set_password(None));
    url.into()
}

/// The headers that an event's sender sent, signature included, and that say something to who gets it once more.
pub(crate) fn sender_headers(event: &EventMessage) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(event.details.headers.len() + 3);
    for (name, value) in &event.details.headers {
        // Characters stand for bytes (see `Headers`). What is no header is left out: it cannot have come over HTTP.
        let bytes: Option<Vec<u8>> = value.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
        let (Ok(name), Some(Ok(value))) =
            (HeaderName::from_bytes(name.as_bytes()), bytes.map(|bytes| HeaderValue::from_bytes(&bytes)))
        else {
            continue;
        };
        if name != header::HOST
            && !is_framing(&name)
            && !name.as_str().starts_with(OWN_PREFIX)
            && name != FORWARDED_HOST
        {
            headers.append(name, value);
        }
    }
    headers
}

/// Whether a header belongs to the framing of one request, and not to what it says.
pub(crate) fn is_framing(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str()) || matches!(*name, header::CONTENT_LENGTH | header::EXPECT)
}

/// The sender's headers, and what only the proxy knows.
fn headers(event: &EventMessage, attempt: u32) -> HeaderMap {
    let mut headers = sender_headers(event);
    let host = event.details.headers.iter().find(|(name, _)| name == "host");
    if let Some(host) = host.and_then(|(_, host)| HeaderValue::from_str(host).ok()) {
        headers.insert(FORWARDED_HOST, host);
    }
    if event.details.attempt.is_none() {
        // A legacy server tells no headers; its bodies are JSON.
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Ok(id) = HeaderValue::from_str(event.id.as_str()) {
        headers.insert(EVENT_ID, id);
    }
    headers.insert(ATTEMPT, attempt.into());
    headers
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

fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or(host == "localhost" || host.ends_with(".localhost"), |address| address.is_loopback())
}

/// What to do about an answer that does not say it by itself.
fn hint(status: StatusCode) -> &'static str {
    if status.is_redirection() { " (redirects are not followed: give the URL that it leads to)" } else { "" }
}

fn trouble(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "no answer in time from"
    } else if error.is_connect() {
        "no connection for"
    } else {
        "connection broken by"
    }
}

/// RFC 9110, section 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str) -> EventMessage {
        EventMessage::parse(json).unwrap()
    }

    #[test]
    fn a_port_a_host_and_a_url_are_targets() {
        for (text, url, append) in [
            ("3000", "http://127.0.0.1:3000/", false),
            ("localhost:3000/x", "http://localhost:3000/x", false),
            ("https://h/a/", "https://h/a/", true),
            ("h:1/", "http://h:1/", true),
        ] {
            assert_eq!(parse_url(text), Ok((url.parse().unwrap(), append)), "{text}");
        }
        for bad in ["", "70000", "ftp://h", "http://", "http://a b"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_path_and_query_go_after_a_slash_only() {
        let event = event(r#"{"id":"1","attempt":1,"query":"a=1&b=%20","data":{}}"#);
        let url = |text| {
            let forward = Forward::new(text, &HttpOptions::new(), Some("/hook/my-bot")).unwrap();
            forward.url_for(&event).to_string()
        };
        assert_eq!(url("http://h/x/"), "http://h/x/hook/my-bot?a=1&b=%20");
        assert_eq!(url("http://h/x"), "http://h/x");
        assert_eq!(url("3000"), "http://127.0.0.1:3000/");
    }

    #[test]
    fn headers_are_the_senders_and_nobody_else_speaks_for_the_proxy() {
        let event = event(
            r#"{"id":"7","attempt":2,"headers":[["host","proxy.example"],["x-outbound-token","ab"],["connection","close"],
            ["content-length","999"],["wwproxy-attempt","9"],["x-forwarded-host","evil"],["x","1"],["x","é"],
            ["bad name","1"],["y","a\r\nb: c"],["z","€"]],"data":{}}"#,
        );
        let got = headers(&event, 3);
        let mut got: Vec<_> = got.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        got.sort_unstable();
        let expected: [(&str, &[u8]); 6] = [
            ("wwproxy-attempt", b"3"),
            ("wwproxy-event-id", b"7"),
            ("x", b"1"),
            ("x", b"\xe9"),
            ("x-forwarded-host", b"proxy.example"),
            ("x-outbound-token", b"ab"),
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let parse = |text| {
            retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]))
        };
        assert_eq!(parse("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert!(parse("Fri, 31 Dec 2100 23:59:59 GMT").unwrap() > Duration::from_secs(1 << 20));
        assert_eq!(parse("soon"), None);
    }

    #[test]
    fn what_is_on_this_machine_needs_no_proxy() {
        for here in ["3000", "http://localhost:1", "http://[::1]:1", "http://a.localhost", "http://127.8.9.1"]
        {
            assert!(is_here(&parse_url(here).unwrap().0), "{here}");
        }
        for there in ["http://example.com", "http://10.0.0.1", "http://localhost.example"] {
            assert!(!is_here(&parse_url(there).unwrap().0), "{there}");
        }
    }

    #[test]
    fn a_targets_password_is_not_shown() {
        let forward = Forward::new("http://u:hunter2@h/", &HttpOptions::new(), None).unwrap();
        assert_eq!(forward.shown, "http://h/");
    }
}
