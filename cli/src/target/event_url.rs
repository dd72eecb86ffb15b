//! The URL to which an event is posted.

use reqwest::Url;
use wwproxy_sdk::{AppId, EventMessage};

use super::address::Address;

/// How often a path is decoded to see whether it stays below that of the target: more than servers do in a row.
const MAX_DECODINGS: usize = 4;

impl Address {
    /// The URL with the query of the original request, and its path: all of it if the URL ends in `/` and the app is known, otherwise what is
    /// after the hook of the source.
    pub(crate) fn url_for(&self, app: Option<&AppId>, event: &EventMessage) -> Url {
        let mut url = self.url.clone();
        let hook = app.filter(|_| self.append);
        let hook = hook.map(|app| wwproxy_sdk::source_hook_path(app, event.source())).unwrap_or_default();
        let tail = event.tail().filter(|tail| stays_below(tail)).unwrap_or_default();
        if !hook.is_empty() || !tail.is_empty() {
            let path = url.path().strip_suffix('/').unwrap_or(url.path());
            url.set_path(&format!("{path}{hook}{tail}"));
        }
        if let Some(query) = &event.details.query {
            append_query(&mut url, query);
        }
        url
    }
}

/// Appends a query without the parameters that the URL has itself, so that a sender cannot repeat them with another value.
fn append_query(url: &mut Url, query: &str) {
    let Some(own) = url.query().filter(|own| !own.is_empty()).map(str::to_owned) else {
        return url.set_query(Some(query));
    };
    let is_own = |parameter: &str| {
        let mut other = url.clone();
        other.set_query(Some(parameter));
        other.query_pairs().next().is_none_or(|(name, _)| url.query_pairs().any(|(own, _)| own == name))
    };
    let added = query.split('&').filter(|parameter| !is_own(parameter));
    let query = std::iter::once(own.as_str()).chain(added).collect::<Vec<_>>().join("&");
    url.set_query(Some(&query));
}

/// Whether a path that the sender chose stays below the one that it is appended to, also if the target decodes it, even several times:
/// no segment is `.` or `..`, with or without parameters (`..;a`).
fn stays_below(tail: &str) -> bool {
    let mut path = tail.as_bytes().to_vec();
    if !path.starts_with(b"/") {
        return false;
    }
    for _ in 0..MAX_DECODINGS {
        let mut segments = path.split(|byte| b"/\\".contains(byte));
        // `Url` removes tabs and line breaks.
        if path.iter().any(u8::is_ascii_control) || segments.any(is_dots) {
            return false;
        }
        let decoded = decode(&path);
        if decoded == path {
            return true;
        }
        path = decoded;
    }
    false
}

/// Whether a segment is `.` or `..`, with or without parameters.
fn is_dots(segment: &[u8]) -> bool {
    let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
    matches!(name, b"." | b"..")
}

/// Decodes each `%` that is followed by two hex digits.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let value =
            digits.filter(|digits| byte == b'%' && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let value = value.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(value.unwrap_or(byte));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The URL for an event with these members.
    fn url(target: &str, members: &str) -> String {
        let event =
            EventMessage::parse(&format!(r#"{{"id":"1","attempt":1,{members},"data":{{}}}}"#)).unwrap();
        let app = "my-bot".parse().unwrap();
        Address::parse(target).unwrap().url_for(Some(&app), &event).to_string()
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
    fn a_parameter_that_the_target_has_itself_is_not_repeated() {
        for (target, query, shown) in [
            ("http://h/x?own=1", "own=2&b=3&own", "own=1&b=3"),
            ("http://h/x?own=1", "o%77n=2", "own=1"),
            ("http://h/x?o%77n=1&c", "&own=2&c=1&&d=%20", "o%77n=1&c&d=%20"),
            ("http://h/x?", "a=1&a=2&&", "a=1&a=2&&"),
            ("http://h/x?own=1", "", "own=1"),
        ] {
            let shown_url = url(target, &format!(r#""query":"{query}""#));
            assert_eq!(shown_url, format!("http://h/x?{shown}"), "{target} {query}");
        }
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
            "/..%3b/admin",
            "/..%3Bx=1/admin",
            "/%2e%2e%3b/admin",
            "/%2e%2e%5cadmin",
            "/%252e%252e/admin",
            "/..%252fadmin",
            "/..%25255cadmin",
            "/%25252525252e./admin",
            "/..%00/admin",
            "/..%09/admin",
        ] {
            let shown = url("http://h/hooks", &format!(r#""source":"repo","tail":"{tail}""#));
            assert_eq!(shown, "http://h/hooks", "{tail}");
        }
        for (tail, path) in [
            ("//evil.example/x", "//evil.example/x"),
            ("/@evil.example", "/@evil.example"),
            ("/a?b#c", "/a%3Fb%23c"),
            ("/a..b/...", "/a..b/..."),
            ("/100%/%zz%/%2", "/100%/%zz%/%2"),
            ("/a%2Fb%3Bc%2525", "/a%2Fb%3Bc%2525"),
        ] {
            let shown = url("http://h/hooks", &format!(r#""source":"repo","tail":"{tail}""#));
            assert_eq!(shown, format!("http://h/hooks{path}"));
            let shown = url("3000", &format!(r#""source":"repo","tail":"{tail}""#));
            assert_eq!(shown, format!("http://localhost:3000{path}"));
        }
        assert_eq!(url("http://h/x", r#""query":"a#b c""#), "http://h/x?a%23b%20c");
    }
}
