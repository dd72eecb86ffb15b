//! `wwproxy sign`: the headers of a signed request, without a server.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use serde_json::json;
use wwproxy_sdk::{
    sanitize,
    scheme::{Unsigned, new_delivery_id},
};

use crate::{
    error::UsageError,
    output::{Output, require_stdout},
    private,
    scheme::{HeaderFlag, SchemeFlags, content_type, read_body, read_headers, read_secrets},
};

/// Print the headers that a sender would add to a body, without a server
#[derive(clap::Args)]
#[command(after_help = "\
Needs no server and no credentials. The time is now and the delivery id is new, unless they are
given. For senders that sign with a private key, the secret is the private key. Discord (Ed25519):
any 32 bytes, as `openssl rand -hex 32` makes them. SendGrid (ECDSA P-256): PKCS#8 in base64,
  umask 077
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 |
    openssl pkcs8 -topk8 -nocrypt -outform DER | openssl base64 -A > private.txt

Examples:
  wwproxy sign --scheme github --webhook-secret-file secret.txt \\
    --type push body.json
  wwproxy sign --scheme stripe --webhook-secret-file secret.txt body.json |
    curl -H @- --data-binary @body.json http://localhost:3000/hook
  wwproxy sign --scheme square --webhook-secret-file secret.txt \\
    --url https://example.com/hook body.json
  echo '{\"type\":\"Issue\",\"webhookTimestamp\":0}' > linear.json
  wwproxy sign --scheme linear --webhook-secret-file secret.txt \\
    --body-out signed.json linear.json
  wwproxy sign --scheme discord --webhook-secret-file private.txt --public-key")]
pub(crate) struct Sign {
    #[command(flatten)]
    scheme: SchemeFlags,
    /// A file with the secret to sign with, also as `WEBHOOK_SECRET` or `WEBHOOK_SECRET_FILE`; `-` is stdin
    #[arg(long, value_name = "FILE")]
    webhook_secret_file: Option<PathBuf>,
    /// The delivery id; by default a new one
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The type of the event, such as `issues.opened`, for senders with a header for it
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The time of the signature: `now`, RFC 3339, or Unix seconds
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "now")]
    time: Time,
    /// The public URL as registered with the sender, for senders that sign it
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The HTTP method, for senders that sign it
    #[arg(long, value_name = "METHOD", default_value = "POST")]
    method: String,
    /// A header that the request has already, such as `Content-Type: text/xml`; `@FILE` reads some, one a line. Repeatable
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = HeaderFlag::parse)]
    headers: Vec<HeaderFlag>,
    /// Where to write the body to send; required for senders whose signature or timestamp is in the body. It is created with mode 0600
    #[arg(long, value_name = "FILE")]
    body_out: Option<PathBuf>,
    /// Print the public key to register for the private key, and sign nothing
    #[arg(long)]
    public_key: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// The file with the body; `-`, the default, is stdin
    #[arg(value_name = "BODY-FILE", default_value = "-")]
    body: PathBuf,
}

impl Sign {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        require_stdout("the headers cannot be printed")?;
        let scheme = self.scheme.required()?;
        let secret = read_secrets(self.webhook_secret_file.as_slice())?.remove(0);
        if self.public_key {
            let key = scheme.public_key(&secret).map_err(|error| UsageError(error.to_string()))?;
            return print(&format!("{key}\n")).await;
        }
        let body = read_body(&self.body, "BODY-FILE")?;
        let mut headers = read_headers(&self.headers)?;
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            headers.insert(0, ("Content-Type".into(), content_type(&body).into()));
        }
        if let Some((name, _)) = headers.iter().find(|(_, value)| value.contains(char::is_control)) {
            return Err(UsageError(format!("the header {name} has control characters")).into());
        }
        let given: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let id = self.id.unwrap_or_else(new_delivery_id);
        let unsigned = Unsigned {
            method: &self.method,
            url: self.url.as_deref(),
            headers: &given,
            body: &body,
            delivery_id: &id,
            event_type: self.kind.as_deref(),
            time: self.time.or_now(),
        };
        let signed = scheme.sign(&secret, &unsigned).map_err(|error| {
            let hint = if self.url.is_none() && scheme.needs_url() { " (give --url)" } else { "" };
            UsageError(format!("{error}{hint}"))
        })?;
        if let Some(path) = &self.body_out {
            let body = signed.body.as_deref().unwrap_or(&body);
            write_private(path, body).with_context(|| format!("cannot write {}", path.display()))?;
        } else if signed.body.is_some() {
            return Err(UsageError(format!(
                "{} writes the signature or the time into the body: give --body-out FILE, and send that file",
                scheme.name()
            ))
            .into());
        }
        headers.retain(|(name, _)| !signed.headers.iter().any(|(added, _)| added.eq_ignore_ascii_case(name)));
        headers.extend(signed.headers);
        let text = if self.json {
            format!("{}\n", json!({ "headers": headers }))
        } else {
            let lines: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
            lines.concat()
        };
        print(&text).await
    }
}

/// Writes a file, which is created with mode 0600: the body of a webhook may be confidential.
fn write_private(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    private::private(options.write(true).create(true).truncate(true)).open(path)?.write_all(data)
}

/// Prints lines, to a terminal without control characters.
async fn print(text: &str) -> anyhow::Result<()> {
    let mut output = Output::stdout();
    let line = |line| if output.terminal { sanitize(line) } else { line.to_owned() };
    let lines: Vec<_> = text.lines().map(|text| line(text) + "\n").collect();
    // A reader that closes the pipe is no error.
    output.write(lines.concat().as_bytes()).await.map(drop)
}

/// A point in time from the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    Now,
    At(SystemTime),
}

impl Time {
    pub(crate) fn or_now(self) -> SystemTime {
        match self {
            Self::Now => SystemTime::now(),
            Self::At(time) => time,
        }
    }
}

/// Parses `now`, RFC 3339, or Unix seconds.
pub(crate) fn parse_time(text: &str) -> Result<Time, String> {
    if text == "now" {
        return Ok(Time::Now);
    }
    let unix = || {
        let seconds = text.parse().ok().filter(|seconds| *seconds < 10_000_000_000)?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    };
    let time = humantime::parse_rfc3339_weak(text).ok().or_else(unix);
    time.map(Time::At).ok_or_else(|| "give now, a time such as 2025-11-28T21:00:00Z, or Unix seconds".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_now_a_date_or_unix_seconds() {
        let at = Ok(Time::At(UNIX_EPOCH + Duration::from_secs(1_764_363_600)));
        assert_eq!(parse_time("2025-11-28T21:00:00Z"), at);
        assert_eq!(parse_time("1764363600"), at);
        assert_eq!(parse_time("now"), Ok(Time::Now));
        for wrong in ["", "soon", "-1", "99999999999999999999", "1764363600000"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
