//! The headers of a forwarded event.

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use wwproxy_sdk::{EventMessage, hook::HOP_BY_HOP};

/// The event's id.
const EVENT_ID: HeaderName = HeaderName::from_static("wwproxy-event-id");
/// How often the target may have received the event, this time included.
const ATTEMPT: HeaderName = HeaderName::from_static("wwproxy-attempt");
/// The host that the sender posted to.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The prefix of headers that only wwproxy sets.
const OWN_PREFIX: &str = "wwproxy-";

/// The headers of the event's sender, signature included, without framing headers and those that are set here.
pub(crate) fn sender_headers(event: &EventMessage) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(event.details.headers.len() + 3);
    for (name, value) in &event.details.headers {
        // Characters stand for bytes (see `Headers`). An invalid header is omitted: it cannot have arrived over HTTP.
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

/// Whether a header belongs to the framing of one request, and is not forwarded.
pub(crate) fn is_framing(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str()) || matches!(*name, header::CONTENT_LENGTH | header::EXPECT)
}

/// The sender's headers, and those of the proxy.
pub(super) fn headers(event: &EventMessage, attempt: u32) -> HeaderMap {
    let mut headers = sender_headers(event);
    let host = event.details.headers.iter().find(|(name, _)| name == "host");
    if let Some(host) = host.and_then(|(_, host)| HeaderValue::from_str(host).ok()) {
        headers.insert(FORWARDED_HOST, host);
    }
    if event.details.attempt.is_none() {
        // A legacy server sends no headers; its bodies are JSON.
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Ok(id) = HeaderValue::from_str(event.id.as_str()) {
        headers.insert(EVENT_ID, id);
    }
    headers.insert(ATTEMPT, attempt.into());
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_sender_are_kept_and_cannot_set_those_of_the_proxy() {
        let event = EventMessage::parse(
            r#"{"id":"7","attempt":2,"headers":[["host","proxy.example"],["x-outbound-token","ab"],["connection","close"],
            ["content-length","999"],["wwproxy-attempt","9"],["x-forwarded-host","evil"],["x","1"],["x","é"],
            ["bad name","1"],["y","a\r\nb: c"],["z","€"]],"data":{}}"#,
        )
        .unwrap();
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
}
