//! Data on stdout, messages on stderr.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    time::Duration,
};

use anyhow::anyhow;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use wwproxy_sdk::{is_unsafe_to_show, sanitize};

use crate::error::UsageError;

/// The output for data. tokio writes stdout on a blocking thread, so a slow reader does not block the answers to pings.
pub(crate) struct Output<W> {
    writer: W,
    /// Whether the output is a terminal, which must not receive control characters of others.
    pub(crate) terminal: bool,
}

impl Output<tokio::io::Stdout> {
    pub(crate) fn stdout() -> Self {
        Self { writer: tokio::io::stdout(), terminal: io::stdout().is_terminal() }
    }
}

impl<W: AsyncWrite + Unpin> Output<W> {
    /// Writes and flushes. `false`: the reader has closed the pipe.
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

/// Writes a text to stdout. On a terminal it is escaped as by [`escape_json`]. `false`: the reader has closed the pipe, which is no
/// error.
pub(crate) async fn print_data(text: &str) -> anyhow::Result<bool> {
    let mut output = Output::stdout();
    output.write(&escape_json(text.as_bytes(), output.terminal)).await
}

/// Writes a secret that is printed only once to stdout. Fails if the output would be lost: stdout is closed, full, or `/dev/null`.
pub(crate) async fn print_secret(text: &str) -> anyhow::Result<()> {
    if is_dev_null() || !print_data(text).await? {
        return Err(anyhow!("the secret cannot be written to stdout, which is closed or /dev/null"));
    }
    Ok(())
}

/// Fails if stdout is closed, with advice on what to do instead. Called before anything that depends on the output is changed, such as
/// an acknowledgement of printed events.
pub(crate) fn require_stdout(advice: &str) -> Result<(), UsageError> {
    if is_closed() {
        return Err(UsageError(format!(
            "stdout is closed, or /dev/null opened for reading and writing: {advice}"
        )));
    }
    Ok(())
}

/// Whether stdout was closed when the process started. The Rust runtime then opens `/dev/null` in its place, for reading and writing;
/// `> /dev/null` of a shell opens it only for writing.
#[cfg(unix)]
fn is_closed() -> bool {
    use rustix::fs::{OFlags, fcntl_getfl};
    is_dev_null() && fcntl_getfl(io::stdout()).is_ok_and(|flags| flags.contains(OFlags::RDWR))
}

#[cfg(unix)]
fn is_dev_null() -> bool {
    use rustix::fs::{fstat, stat};
    matches!((fstat(io::stdout()), stat("/dev/null")), (Ok(stdout), Ok(null)) if stdout.st_rdev == null.st_rdev)
}

#[cfg(not(unix))]
fn is_closed() -> bool {
    false
}

#[cfg(not(unix))]
fn is_dev_null() -> bool {
    false
}

/// Prints one line on stderr.
pub(crate) fn print_message(text: &str) {
    // One write, so that lines of other processes are not mixed in. A closed stderr is no error.
    let _ = io::stderr().write_all(format!("wwproxy: {}\n", sanitize(text)).as_bytes());
}

/// Formats an error on one line: its message and its innermost cause.
pub(crate) fn describe_error(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        // Causes between the message and the innermost one only name layers of libraries, except an error of the sdk.
        if !(cause.is::<wwproxy_sdk::Error>() || cause.source().is_none()) {
            continue;
        }
        let cause = cause.to_string();
        // Such as "Connection refused (os error 111)" after "connection refused".
        let reason = cause.split(" (os error ").next().unwrap_or_default();
        if !text.to_lowercase().contains(&reason.to_lowercase()) {
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

/// Formats a delay in seconds, such as `0.5 s`. A short one is not shown as zero.
pub(crate) fn seconds(delay: Duration) -> String {
    format!("{:.1} s", delay.as_secs_f32().max(0.1))
}

/// Formats a count with its noun, such as `1 event` or `2 events`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Escapes the characters of a JSON text that a terminal would act on, if the output is a terminal. The JSON value stays the same.
/// Below U+007F valid JSON contains no such character except white space.
pub(crate) fn escape_json(json: &[u8], terminal: bool) -> Cow<'_, [u8]> {
    let is_unsafe = |c: &char| *c >= '\u{7f}' && is_unsafe_to_show(*c);
    match std::str::from_utf8(json) {
        Ok(text) if terminal && text.chars().any(|c| is_unsafe(&c)) => {
            let mut escaped = String::with_capacity(text.len() + 16);
            for c in text.chars() {
                if is_unsafe(&c) {
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
    fn messages_contain_no_control_characters() {
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
    fn an_error_is_described_with_its_innermost_cause() {
        let inner = anyhow::Error::new(io::Error::other("disk full"));
        let error = Err::<(), _>(inner.context("layer")).context("cannot write").unwrap_err();
        assert_eq!(describe_error(&error), "cannot write: disk full");
        assert_eq!(describe_error(&anyhow::anyhow!("alone")), "alone");
    }

    #[tokio::test]
    async fn a_closed_pipe_is_not_an_error() {
        let (there, here) = tokio::io::duplex(8);
        let mut output = Output { writer: here, terminal: false };
        drop(there);
        assert!(!output.write(b"x").await.unwrap());
        let mut output = Output { writer: Vec::new(), terminal: false };
        assert!(output.write(b"x").await.unwrap());
        assert_eq!(output.writer, b"x");
    }
}
