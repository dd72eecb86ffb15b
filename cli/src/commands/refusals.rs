//! `wwproxy refusals`

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
};

use console::Style;
use wwproxy_sdk::{Client, Refusal, SourceName, sanitize};

use crate::{
    output::{counted, print_data, print_message},
    table::to_the_second,
};

/// Show the webhooks that the server refused last, and which check failed
#[derive(clap::Args)]
#[command(after_help = "\
The newest is the last one. The server keeps up to 100 of an app in memory, without bodies and
without the values of headers; equal ones are counted. On a terminal it prints lines for people,
otherwise JSON, one refusal a line.

Examples:
  wwproxy refusals
  wwproxy refusals --source github
  wwproxy refusals --json | jq -r 'select(.check == \"signature\") | .at'")]
pub(crate) struct Refusals {
    /// Only those of this source
    #[arg(long, value_name = "NAME")]
    source: Option<SourceName>,
    /// Print JSON, one refusal a line; the default without a terminal
    #[arg(long)]
    json: bool,
}

/// What to do after a check failed.
const ADVICE: [(&str, &str); 14] = [
    ("source", "correct the hook's URL at the sender, or register a source of this name"),
    ("scheme", "register another scheme, or ask the operator of the server for --allow-unverified"),
    (
        "method",
        "check that the source has the sender's scheme; a browser that opens the hook's URL has this result too",
    ),
    ("header", "set the webhook secret at the sender, and check that the source has the sender's scheme"),
    ("encoding", "check that the source has the sender's scheme"),
    (
        "timestamp",
        "compare the clock of the server with the right time; if the sender is slow, register with a larger --tolerance",
    ),
    ("content", "check that the source has the sender's scheme"),
    ("secret", "register the source again with the secret in the form that the sender shows"),
    (
        "signature",
        "compare the secret with that at the sender; `wwproxy verify` checks a saved webhook with a secret, without a server",
    ),
    ("challenge", "register with --challenge-secret-file the verify token that is entered at the sender"),
    ("form", "check that the source has the sender's scheme"),
    ("handshake", "run `wwproxy sources arm NAME`, then create the webhook at the sender again"),
    ("size", "raise --max-body of the server, or let the sender send less"),
    ("queue", "the queue is full: receive the events, with `wwproxy listen` or `wwproxy get`"),
];

impl Refusals {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let mut refusals = client.refusals().await?;
        refusals.retain(|refusal| self.source.as_ref().is_none_or(|source| *source == refusal.source));
        // The server has the newest first; a reader of a terminal sees the end.
        refusals.reverse();
        if refusals.is_empty() {
            if let Some(source) = &self.source {
                // A webhook for a source that does not exist is listed, too: so only an empty list is a typo.
                client.source(source).await?;
            }
            let of = self.source.as_ref().map_or_else(String::new, |source| format!(" for source {source}"));
            print_message(&format!(
                "no webhook of {}{of} was refused since the server started",
                client.app_id()
            ));
            return Ok(());
        }
        let text: String = if self.json || !io::stdout().is_terminal() {
            refusals.iter().map(json).collect()
        } else {
            refusals.iter().map(lines).collect()
        };
        print_data(&text).await?;
        for (check, advice) in ADVICE {
            if refusals.iter().any(|refusal| refusal.check == check) {
                print_message(&format!("{check}: {advice}"));
            }
        }
        Ok(())
    }
}

fn json(refusal: &Refusal) -> String {
    serde_json::to_string(refusal).expect("texts and numbers have a JSON form") + "\n"
}

/// A refusal for people. Every text of the server is sanitized: the sender chooses the names of headers.
fn lines(refusal: &Refusal) -> String {
    let Refusal { at, count, source, check, detail, status, bytes, headers, sha256 } = refusal;
    let at = sanitize(&to_the_second(at));
    let often = if *count == 1 { String::new() } else { format!(" ({count} times, the last one)") };
    let check = sanitize(check);
    let mut text = format!(
        "{} {} {} {check}: {}{often}\n",
        Style::new().dim().apply_to(at),
        Style::new().bold().apply_to(source),
        Style::new().red().apply_to(status),
        sanitize(detail),
    );
    let _ = write!(text, "    {}", counted(*bytes, "byte", "bytes"));
    if let Some(sha256) = sha256 {
        let _ = write!(text, ", SHA-256 {}", sanitize(sha256));
    }
    let _ = writeln!(text, ", headers: {}", sanitize(&headers.join(", ")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_can_forge_no_line_and_control_no_terminal() {
        let evil = "a\u{1b}[2J\n\u{9b}\u{202e}b";
        let refusal = Refusal {
            at: evil.into(),
            count: 2,
            source: SourceName::default(),
            check: evil.into(),
            detail: evil.into(),
            status: 401,
            bytes: 1,
            headers: vec![evil.into()],
            sha256: Some(evil.into()),
        };
        let shown = lines(&refusal);
        let shown = console::strip_ansi_codes(&shown);
        assert_eq!(shown.lines().count(), 2, "{shown:?}");
        assert!(!shown.contains(|c| c != '\n' && wwproxy_sdk::is_unsafe_to_show(c)), "{shown:?}");
        assert_eq!(shown.matches("a [2J   b").count(), 5, "{shown:?}");
    }
}
