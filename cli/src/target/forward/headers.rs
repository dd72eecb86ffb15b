//! The headers of a forwarded event.

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use wwproxy_sdk::{Encoding, EventMessage, hook::HOP_BY_HOP};

use crate::target::verification;

/// The event's id.
const EVENT_ID: HeaderName = HeaderName::from_static("wwproxy-event-id");
/// The sender's type of the event.
const EVENT_TYPE: HeaderName = HeaderName::from_static("wwproxy-event-type");
/// The source that received the event.
const SOURCE: HeaderName = HeaderName::from_static("wwproxy-source");
/// The sender's id of the delivery.
const DELIVERY_ID: HeaderName = HeaderName::from_static("wwproxy-delivery-id");
/// The scheme by which the server verified the event, or `none`.
const VERIFICATION: HeaderName = HeaderName::from_static("wwproxy-verification");
/// How often the target may have received the event, this time included.
const ATTEMPT: HeaderName = HeaderName::from_static("wwproxy-attempt");
/// The host that the sender posted to.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The most headers of the sender that are forwarded: ten times as many as a wwproxy server accepts. `HeaderMap` panics at 32,768.
const MAX_SENDER_HEADERS: usize = 1000;
/// The longest value of a header that describes the event, in bytes. A longer one is omitted: targets limit the size of the headers.
const MAX_METADATA_BYTES: usize = 1024;
/// The prefix of headers that only wwproxy sets.
const OWN_PREFIX: &str = "wwproxy-";

/// The first [`MAX_SENDER_HEADERS`] headers of the event's sender, signature included, without framing headers and those that are set
/// here.
pub(crate) fn sender_headers(event: &EventMessage) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in event.details.headers.iter().take(MAX_SENDER_HEADERS) {
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
    if event.details.attempt.is_none() && event.data().0 == Encoding::Json {
        // A legacy server sends no headers.
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let host = event.details.headers.iter().find(|(name, _)| name == "host");
    let source = event.details.has_origin.then(|| event.source().as_str());
    let kind = event.event_type();
    for (name, value) in [
        (FORWARDED_HOST, host.map(|(_, host)| host.as_str())),
        (EVENT_ID, Some(event.id.as_str())),
        (EVENT_TYPE, kind.as_deref()),
        (SOURCE, source),
        (DELIVERY_ID, event.delivery_id()),
        (VERIFICATION, verification(event)),
    ] {
        // A value with control characters is omitted: it would end the header.
        let short = value.filter(|value| value.len() <= MAX_METADATA_BYTES);
        headers.extend(
            short.and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok()).map(|it| (name, it)),
        );
    }
    headers.insert(ATTEMPT, attempt.into());
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
        let mut all: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn metadata_is_added_and_cannot_inject_a_header() {
        let event = |members: &str| {
            EventMessage::parse(&format!(r#"{{"id":"7","attempt":1,"source":"repo",{members},"data":{{}}}}"#))
                .unwrap()
        };
        let verified = r#""eventType":"issues.opened","deliveryId":"d 1","headers":[["wwproxy-source","forged"],
            ["content-type","a/b"],["content-encoding","gzip"],["authorization","Bearer x"]],
            "verification":{"scheme":"github","secret":1,"signed":"body","covers":"body"}"#;
        let expected: [(&str, &[u8]); 9] = [
            ("authorization", b"Bearer x"),
            ("content-encoding", b"gzip"),
            ("content-type", b"a/b"),
            ("wwproxy-attempt", b"1"),
            ("wwproxy-delivery-id", b"d 1"),
            ("wwproxy-event-id", b"7"),
            ("wwproxy-event-type", b"issues.opened"),
            ("wwproxy-source", b"repo"),
            ("wwproxy-verification", b"github"),
        ];
        assert_eq!(sorted(&headers(&event(verified), 1)), expected);
        let evil = r#""eventType":"a\r\nx: 1","deliveryId":"\u0000","verification":null"#;
        let got = headers(&event(evil), 1);
        assert!(got.get("wwproxy-event-type").is_none() && got.get("wwproxy-delivery-id").is_none());
        assert_eq!(got["wwproxy-verification"], "none");
        // A legacy server sends no content type.
        let legacy =
            |data: &str| headers(&EventMessage::parse(&format!(r#"{{"id":"7",{data}}}"#)).unwrap(), 1);
        assert_eq!(legacy(r#""data":[]"#)["content-type"], "application/json");
        assert!(legacy(r#""data":"a=1""#).get("content-type").is_none());
    }

    #[test]
    fn headers_without_limit_are_cut_off() {
        let (many, long) = (r#"["x","1"],"#.repeat(40_000), "a".repeat(2000));
        let event = EventMessage::parse(&format!(
            r#"{{"id":"7","attempt":1,"source":"repo","eventType":"{long}","deliveryId":"{long}","verification":null,
            "headers":[["host","{long}"],{many}["y","2"]],"data":{{}}}}"#
        ))
        .unwrap();
        let got = headers(&event, 1);
        assert_eq!(got.get_all("x").iter().count(), MAX_SENDER_HEADERS - 1);
        let mut names: Vec<_> = got.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["wwproxy-attempt", "wwproxy-event-id", "wwproxy-source", "wwproxy-verification", "x"]
        );
    }

    #[test]
    fn headers_of_the_sender_are_kept_and_cannot_set_those_of_the_proxy() {
        let event = EventMessage::parse(
            r#"{"id":"7","attempt":2,"headers":[["host","proxy.example"],["x-outbound-token","ab"],["connection","close"],
            ["content-length","999"],["wwproxy-attempt","9"],["x-forwarded-host","evil"],["x","1"],["x","é"],
            ["bad name","1"],["y","a\r\nb: c"],["z","€"]],"data":{}}"#,
        )
        .unwrap();
        let got = headers(&event, 3);
        let got = sorted(&got);
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
