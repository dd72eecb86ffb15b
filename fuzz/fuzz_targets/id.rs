//! App and event ids: a valid id is safe in a path, a header and a log line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wwproxy_protocol::{AppId, EventId, api};

fuzz_target!(|text: &str| {
    if let Ok(app) = text.parse::<AppId>() {
        assert_eq!(app.as_str(), text);
        assert!(text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(!text.contains(['/', '%', '?', '#', '\\', '"']));
        assert_eq!(api::path::hook(&app), format!("/hook/{text}"));
    }
    if let Ok(event) = text.parse::<EventId>() {
        assert_eq!(event.as_str(), text);
        assert!(text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic()));
    }
});
