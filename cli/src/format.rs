//! Output formats of events.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal},
};

use console::Style;
use indicatif::HumanBytes;
use wwproxy_sdk::{Encoding, EventMessage, sanitize};

use crate::{error::UsageError, output::escape_json, target::TryOutcome};

/// The format of stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Readable lines: each event, and the outcome of each try
    Pretty,
    /// One JSON object per line: the metadata of the event, and its body under `data`
    Json,
    /// One body per line, without metadata: JSON as it is, text as a JSON string, other bytes as
    /// `{"encoding":"base64","data":"…"}`
    Data,
    /// The bytes of each body, with nothing before or after them; not on a terminal
    Raw,
}

impl Format {
    /// The chosen format; without one `Pretty` on a terminal, otherwise `Json`.
    ///
    /// # Errors
    /// Raw bytes would reach a terminal, which obeys control characters in them.
    pub(crate) fn for_stdout(chosen: Option<Self>) -> Result<Self, UsageError> {
        match (chosen, io::stdout().is_terminal()) {
            (Some(Self::Raw), true) => Err(UsageError(
                "--format raw writes untrusted bytes: redirect stdout, it is a terminal".into(),
            )),
            (Some(format), _) => Ok(format),
            (None, true) => Ok(Self::Pretty),
            (None, false) => Ok(Self::Json),
        }
    }
}

/// The deepest indentation, in levels: it bounds the output for a deeply nested body of an attacker.
const MAX_INDENT: usize = 32;

/// How much of a media type is shown, in characters.
const MAX_MEDIA_TYPE: usize = 64;

/// Formats an event that has no target.
pub(crate) fn event(event: &EventMessage, format: Format, terminal: bool) -> Vec<u8> {
    let mut text = Vec::new();
    match format {
        Format::Pretty => {
            text.extend_from_slice(arrival_line(event).as_bytes());
            text.extend_from_slice(readable(event).as_bytes());
        }
        Format::Json => push_line(&mut text, &object(event, &[]), terminal),
        Format::Data => push_line(&mut text, event.json_value().as_bytes(), terminal),
        Format::Raw => text.extend_from_slice(&event.body),
    }
    text
}

/// Formats an event as one JSON object: its metadata, the members in `more`, and last the body byte for byte as `data`. The event
/// message of the websocket has the same members, so [`EventMessage::parse`] reads it.
pub(crate) fn object(event: &EventMessage, more: &[(&str, serde_json::Value)]) -> Vec<u8> {
    let details = &event.details;
    let (encoding, data) = event.data();
    let received_at = details.received_at.map(|time| humantime::format_rfc3339_millis(time).to_string());
    let origin = serde_json::to_string(&details.origin).expect("an origin has a JSON form");
    let before = [
        Some(("id", serde_json::json!(event.id))),
        details.attempt.map(|attempt| ("attempt", attempt.into())),
        received_at.map(|time| ("receivedAt", time.into())),
    ];
    let after = [
        // A server that sends the attempt also sends headers.
        details.attempt.map(|_| ("headers", serde_json::json!(details.headers))),
        details.query.as_deref().map(|query| ("query", query.into())),
        event.content_type().filter(|_| details.has_origin).map(|value| ("contentType", value.into())),
        // A server of version 0.1 stores JSON only, and does not name the encoding.
        (details.has_origin || encoding != Encoding::Json).then(|| ("encoding", encoding.name().into())),
    ];
    let mut text = Vec::with_capacity(data.len() + 1024);
    text.push(b'{');
    let push = |text: &mut Vec<u8>, (name, value): &(&str, serde_json::Value)| {
        text.extend_from_slice(format!("\"{name}\":{value},").as_bytes());
    };
    before.iter().flatten().for_each(|member| push(&mut text, member));
    if details.has_origin {
        // Its members without the braces, in the order of the wire.
        text.extend_from_slice(&origin.as_bytes()[1..origin.len() - 1]);
        text.push(b',');
    }
    after.iter().flatten().chain(more).for_each(|member| push(&mut text, member));
    text.extend_from_slice(b"\"data\":");
    text.extend_from_slice(data.as_bytes());
    text.push(b'}');
    text
}

/// Appends JSON on one line. Valid JSON has line breaks only between tokens, so they can be replaced by spaces.
pub(crate) fn push_line(line: &mut Vec<u8>, json: &[u8], terminal: bool) {
    let start = line.len();
    line.extend_from_slice(&escape_json(json, terminal));
    for byte in &mut line[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    line.push(b'\n');
}

/// The line of an event that arrived: time, type, id, an arrow, the source, size and media type of the body, and whether the event
/// is unverified. The server counts deliveries to any client: an earlier one may have left the event, without an attempt at a target.
pub(crate) fn arrival_line(event: &EventMessage) -> String {
    let source = event.details.has_origin.then(|| format!("{}, ", event.source()));
    let size = HumanBytes(event.body.len() as u64);
    let media_type = event.content_type().and_then(|value| value.split(';').next());
    let media_type = media_type.map(|it| it.chars().take(MAX_MEDIA_TYPE).collect::<String>());
    let of = media_type.map_or_else(String::new, |media_type| format!(" of {}", sanitize(media_type.trim())));
    let unverified =
        event.is_unverified().then(|| format!(", {}", Style::new().yellow().apply_to("unverified")));
    let again = event.details.attempt.filter(|attempt| *attempt > 1);
    let again = again.map(|attempt| format!(" (delivered {attempt} times)"));
    let (source, unverified) = (source.unwrap_or_default(), unverified.unwrap_or_default());
    let arrow = Style::new().cyan().apply_to("-->");
    format!("{} {arrow} {source}{size}{of}{unverified}{}\n", head(event), again.unwrap_or_default())
}

/// The line of a try: the response of the target.
pub(crate) fn result_line(event: &EventMessage, tried: &TryOutcome, what_next: &str) -> String {
    let style = if tried.accepted { Style::new().green() } else { Style::new().red() };
    let (arrow, answer) = (style.apply_to("<--"), sanitize(&tried.answer));
    let took = format!("{}ms", tried.took.as_millis());
    format!("{} {arrow} {answer} {took}{what_next}\n", head(event))
}

/// The same start of both lines, so that they can be matched when several events are in flight.
fn head(event: &EventMessage) -> String {
    let time = event.details.received_at.unwrap_or_else(std::time::SystemTime::now);
    let time = humantime::format_rfc3339_seconds(time).to_string();
    let kind = event.event_type().unwrap_or_else(|| "(no type)".into());
    let (kind, id) = (sanitize(&kind), sanitize(event.id.as_str()));
    format!("{} {} {}", Style::new().dim().apply_to(time), Style::new().bold().apply_to(kind), id)
}

/// The body as readable text: JSON is indented. Each line of any other text begins with two spaces, so that it cannot pass for a line of this
/// program, and has no control characters.
fn readable(event: &EventMessage) -> String {
    match (event.data().0, event.text()) {
        (Encoding::Json, _) => indented(&event.body),
        (_, Ok(text)) => {
            text.lines().flat_map(|line| ["  ".to_owned(), sanitize(line), "\n".into()]).collect()
        }
        (_, Err(_)) => "  (not text: --format raw or --save keeps the bytes)\n".into(),
    }
}

/// Indents JSON. Each token stays as it is.
pub(crate) fn indented(body: &[u8]) -> String {
    let body = escape_json(body, true);
    let text = String::from_utf8_lossy(&body);
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0usize;
    let mut chars = text.trim().chars().peekable();
    let new_line = |out: &mut String, depth: usize| {
        let _ = write!(out, "\n{:width$}", "", width = 2 * depth.min(MAX_INDENT));
    };
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                out.push(c);
                while let Some(c) = chars.next() {
                    out.push(c);
                    match c {
                        '\\' => out.extend(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str) -> EventMessage {
        EventMessage::parse(json).unwrap()
    }

    #[test]
    fn an_object_is_read_back_unchanged() {
        let text = "{\"id\":\"7\",\"attempt\":2,\"receivedAt\":\"2018-10-03T09:46:40.123Z\",\
                    \"headers\":[[\"x\",\"1\"]],\"query\":\"a=1\",\"data\":{\"n\": 1.0,\n\"m\":[ ]}\n}";
        assert_eq!(object(&event(text), &[]), text.as_bytes());
        let legacy = "{\"id\":\"7\",\"data\":[]}";
        assert_eq!(object(&event(legacy), &[]), legacy.as_bytes());
        let more = object(&event(legacy), &[("outcome", "kept".into())]);
        assert_eq!(more, b"{\"id\":\"7\",\"outcome\":\"kept\",\"data\":[]}");
        assert_eq!(event(std::str::from_utf8(&more).unwrap()), event(legacy));
    }

    #[test]
    fn line_breaks_in_json_become_spaces() {
        let mut line = Vec::new();
        push_line(&mut line, b"{\"a\":\r\n1}", false);
        assert_eq!(line, b"{\"a\":  1}\n");
    }

    #[test]
    fn indentation_changes_white_space_only() {
        let body = r#"{"a" : [1.50,{ }],"b,{":"x\"]\\","c":[ ],"d":null}"#;
        let pretty = indented(body.as_bytes());
        assert_eq!(
            pretty,
            "{\n  \"a\": [\n    1.50,\n    {}\n  ],\n  \"b,{\": \"x\\\"]\\\\\",\n  \"c\": [],\n  \"d\": null\n}\n"
        );
    }

    #[test]
    fn the_indentation_of_a_deep_body_is_bounded() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(indented(deep.as_bytes()).len() < 200_000 * (2 * MAX_INDENT + 2));
    }

    #[test]
    fn a_type_cannot_forge_a_line() {
        for (kind, shown) in [(r"a\nb\u001b[2J", "(no type)"), (r"a\u202eb\u2028c", "a b c")] {
            let text = format!(r#"{{"id":"7","attempt":2,"data":{{"type":"{kind}"}}}}"#);
            let line = arrival_line(&event(&text));
            let line = console::strip_ansi_codes(&line).into_owned();
            assert!(
                line.contains(&format!(" {shown} 7 --> ")) && line.ends_with(" (delivered 2 times)\n"),
                "{line:?}"
            );
            assert_eq!(line.lines().count(), 1, "{line:?}");
        }
    }

    #[test]
    fn members_of_the_wire_and_every_body_are_read_back() {
        let text = r#"{"id":"7","attempt":2,"receivedAt":"2018-10-03T09:46:40.123Z","source":"repo","tail":"/a","eventType":"push","deliveryId":"d","verification":null,"headers":[["content-type","x/y"]],"query":"a=1","contentType":"x/y","encoding":"base64","data":"//4="}"#;
        assert_eq!(std::str::from_utf8(&object(&event(text), &[])).unwrap(), text);
        for body in [
            &b"{\"n\": 1.0}\n"[..],
            b"\"text\"",
            b"",
            b"a=1&b=%20",
            b"\x1b[2J\0\n",
            b"\xef\xbb\xbf{}",
            b"\xff\xfe",
            b"\x1f\x8b\x08\x00",
        ] {
            let mut sent = event(text);
            sent.body = body.to_vec().into();
            assert_eq!(event(std::str::from_utf8(&object(&sent, &[])).unwrap()), sent);
            assert_eq!(super::event(&sent, Format::Raw, false), body);
            let line = super::event(&sent, Format::Data, true);
            assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok() && line.ends_with(b"\n"));
        }
    }

    #[test]
    fn a_body_that_is_not_json_cannot_forge_a_line_or_control_the_terminal() {
        let of = |encoding: &str, data: &str| {
            let head = r#""id":"7","source":"repo","verification":null,"headers":[["content-type","text/\u001bx; charset=\u001b"]]"#;
            let shown = event(&format!(r#"{{{head},"encoding":"{encoding}","data":"{data}"}}"#));
            let shown = String::from_utf8(super::event(&shown, Format::Pretty, true)).unwrap();
            let (first, body) = shown.split_once('\n').unwrap();
            (console::strip_ansi_codes(first).into_owned(), body.to_owned())
        };
        let (first, body) = of("text", "a=1\\u001b[2J\\r\\n2018 push 8 --> \\u202e\\n");
        assert!(first.ends_with(" (no type) 7 --> repo, 29 B of text/ x, unverified"), "{first}");
        assert_eq!(body, "  a=1 [2J\n  2018 push 8 -->  \n");
        assert_eq!(of("base64", "//4=").1, "  (not text: --format raw or --save keeps the bytes)\n");
        assert_eq!(of("text", "").1, "");
    }
}
