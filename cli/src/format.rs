//! Output formats of events.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal},
};

use console::Style;
use wwproxy_sdk::{EventMessage, sanitize};

use crate::{output::escape_json, target::TryOutcome};

/// The format of stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Lines for people: each event, and the outcome of each try
    Pretty,
    /// One JSON object per line: the metadata of the event, and its body under `data`
    Json,
    /// One body per line, without metadata
    Data,
}

impl Format {
    /// `Pretty` on a terminal, otherwise `Json`.
    pub(crate) fn default_for_stdout() -> Self {
        if io::stdout().is_terminal() { Self::Pretty } else { Self::Json }
    }
}

/// The deepest indentation, in levels: it bounds the output for a deeply nested body of an attacker.
const MAX_INDENT: usize = 32;

/// Formats an event that has no target.
pub(crate) fn event(event: &EventMessage, format: Format, terminal: bool) -> Vec<u8> {
    let mut text = Vec::new();
    match format {
        Format::Pretty => {
            text.extend_from_slice(arrival_line(event).as_bytes());
            text.extend_from_slice(indented(&event.body).as_bytes());
        }
        Format::Json => push_line(&mut text, &object(event, &[]), terminal),
        Format::Data => push_line(&mut text, &event.body, terminal),
    }
    text
}

/// Formats an event as one JSON object: its metadata, the members in `more`, and last the body byte for byte under `data`. The
/// event message of the websocket has the same members, so [`EventMessage::parse`] reads it.
pub(crate) fn object(event: &EventMessage, more: &[(&str, serde_json::Value)]) -> Vec<u8> {
    let details = &event.details;
    let received_at = details.received_at.map(|time| humantime::format_rfc3339_millis(time).to_string());
    let known = [
        Some(("id", serde_json::json!(event.id))),
        details.attempt.map(|attempt| ("attempt", attempt.into())),
        received_at.map(|time| ("receivedAt", time.into())),
        // A server that sends the attempt also sends headers.
        details.attempt.map(|_| ("headers", serde_json::json!(details.headers))),
        details.query.as_deref().map(|query| ("query", query.into())),
    ];
    let mut text = Vec::with_capacity(event.body.len() + 1024);
    text.push(b'{');
    for (name, value) in known.iter().flatten().chain(more) {
        text.extend_from_slice(format!("\"{name}\":{value},").as_bytes());
    }
    text.extend_from_slice(b"\"data\":");
    text.extend_from_slice(&event.body);
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

/// The line of an event that arrived: time, type, id, and an arrow.
pub(crate) fn arrival_line(event: &EventMessage) -> String {
    let again = event.details.attempt.filter(|attempt| *attempt > 1);
    let again = again.map_or_else(String::new, |attempt| format!(" (attempt {attempt})"));
    format!("{} {}{again}\n", head(event), Style::new().cyan().apply_to("-->"))
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
        let line = arrival_line(&event(r#"{"id":"7","attempt":2,"data":{"type":"a\nb\u001b[2J"}}"#));
        let line = console::strip_ansi_codes(&line).into_owned();
        assert!(line.ends_with(" a b [2J 7 --> (attempt 2)\n"), "{line:?}");
    }
}
