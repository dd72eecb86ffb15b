//! Data on stdout, talk on stderr.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use wwproxy_sdk::{is_unsafe_to_show, sanitize};

/// Where data goes. Written in another thread, so that a reader who is slow does not keep pings from being answered.
pub(crate) struct Output<W> {
    writer: W,
    /// Whether what is written is shown to a person, and must not drive the terminal.
    pub(crate) terminal: bool,
}

impl Output<tokio::io::Stdout> {
    pub(crate) fn stdout() -> Self {
        Self { writer: tokio::io::stdout(), terminal: io::stdout().is_terminal() }
    }
}

impl<W: AsyncWrite + Unpin> Output<W> {
    /// Writes and flushes. `false`: nobody reads any more.
    pub(crate) async fn write(&mut self, data: &[u8]) -> anyhow::Result<bool> {
        let written = async {
            self.writer.write_all(data).await?;
            self.writer.flush().await
        };
        match written.await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(anyhow::Error::new(error).context("cannot write to stdout")),
        }
    }
}

/// Tells the person something, on one line.
pub(crate) fn print_message(text: &str) {
    // Where stderr is closed there is nobody to tell.
    // In one piece, so that what others say at the same time does not come between.
    let _ = io::stderr().write_all(format!("wwproxy: {}\n", sanitize(text)).as_bytes());
}

/// An error in one sentence: what to do, and the innermost cause.
pub(crate) fn describe_error(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        // A context keeps the sdk's sentence, whose own causes are told by their last: the others name library layers.
        if cause.is::<wwproxy_sdk::Error>() || cause.source().is_none() {
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

/// JSON as it is, or for a terminal with the characters escaped that it would act on: other bytes, the same JSON. Below U+007F
/// JSON holds none but white space.
pub(crate) fn escape_json(json: &[u8], terminal: bool) -> Cow<'_, [u8]> {
    let acted_on = |c: &char| *c >= '\u{7f}' && is_unsafe_to_show(*c);
    match std::str::from_utf8(json) {
        Ok(text) if terminal && text.chars().any(|c| acted_on(&c)) => {
            let mut escaped = String::with_capacity(text.len() + 16);
            for c in text.chars() {
                if acted_on(&c) {
                    let _ = write!(escaped, "\\u{:04x}", u32::from(c));
                } else {
                    escaped.push(c);
                }
            }
            Cow::Owned(escaped.into_bytes())
        }
        _ => Cow::Borrowed(json),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn talk_cannot_drive_a_terminal() {
        assert_eq!(sanitize("a\x1b[2Jb\nwwproxy: c\u{9b}d\u{202e}e"), "a [2Jb wwproxy: c d e");
        let unsafe_to_show =
            "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{2066}\u{2069}";
        assert_eq!(sanitize(unsafe_to_show), " ".repeat(11));
    }

    #[test]
    fn a_terminal_gets_the_same_json_without_control_characters() {
        let json = "{\"a\":\"\u{9b}31m\u{7f}é\u{202e}\u{2028}\"}\n".as_bytes();
        assert_eq!(escape_json(json, false), json);
        let safe = escape_json(json, true);
        assert_eq!(safe, "{\"a\":\"\\u009b31m\\u007fé\\u202e\\u2028\"}\n".as_bytes());
        let value = |json| serde_json::from_slice::<serde_json::Value>(json).unwrap();
        assert_eq!(value(&safe), value(json));
    }

    #[test]
    fn an_error_is_told_with_its_innermost_cause() {
        let inner = anyhow::Error::new(io::Error::other("disk full"));
        let error = Err::<(), _>(inner.context("layer")).context("cannot write").unwrap_err();
        assert_eq!(describe_error(&error), "cannot write: disk full");
        assert_eq!(describe_error(&anyhow::anyhow!("alone")), "alone");
    }

    #[tokio::test]
    async fn a_closed_pipe_is_no_error() {
        let (there, here) = tokio::io::duplex(8);
        let mut output = Output { writer: here, terminal: false };
        drop(there);
        assert!(!output.write(b"x").await.unwrap());
        let mut output = Output { writer: Vec::new(), terminal: false };
        assert!(output.write(b"x").await.unwrap());
        assert_eq!(output.writer, b"x");
    }
}
