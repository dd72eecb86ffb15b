use wwproxy_protocol::{SourceSettings, Verification, scheme::Covers};

use super::*;

#[test]
fn the_size_of_an_event_counts_all_of_its_texts() {
    let text = |length: usize| "x".repeat(length);
    // Powers of two: the sum shows which one is missing.
    let event = NewEvent {
        origin: Origin {
            source: text(1).parse().unwrap(),
            tail: Some(text(2)),
            event_type: Some(text(4)),
            delivery_id: Some(text(8)),
            verification: Some(Verification {
                scheme: text(16),
                secret: 1,
                signed: text(32),
                covers: Covers::Body,
            }),
        },
        headers: vec![(text(64), text(128))],
        query: Some(text(256)),
        body: text(512).into(),
        encoding: Encoding::Text,
    };
    assert_eq!(event.size(), 1023);
}

#[test]
fn debug_redacts_the_url_of_a_source() {
    let settings = SourceSettings {
        scheme: "square".into(),
        secrets: vec![Secret::new("hunter2")],
        url: Some("https://x.example/hunter2?token=hunter2".into()),
        ..SourceSettings::default()
    };
    let source = Ok(Arc::new(Source::new(settings).unwrap()));
    let registration = Registration { sources: [(SourceName::default(), source)].into() };
    let shown = format!("{registration:?}");
    assert!(shown.contains("square") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn debug_redacts_an_event() {
    let headers = vec![("x-token".into(), "hunter2".into())];
    let mut new = NewEvent::new(headers, Some("token=hunter2".into()), Bytes::from_static(b"hunter2"));
    new.origin.tail = Some("/hunter2".into());
    let shown = format!("{new:?}");
    assert!(shown.contains("x-token") && !shown.contains("hunter2"), "{shown}");
    let event = new.into_event("7".parse().unwrap(), SystemTime::UNIX_EPOCH);
    let shown = format!("{event:?}");
    assert!(shown.contains("x-token") && !shown.contains("hunter2"), "{shown}");
}
