//! `wwproxy verify`: verifies a webhook without a server.

mod report;

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::anyhow;
use wwproxy_sdk::{
    Bytes, EventMessage, Secret,
    scheme::{Check, Rejection, Request, Scheme, Verified},
};

use self::report::Report;
use super::sign::{Time, parse_time};
use crate::{
    error::UsageError,
    event_file,
    output::{Output, describe_error, escape_json, print_message},
    scheme::{HeaderFlag, SchemeFlags, preset, read_body, read_headers, read_secrets, usage},
};

/// Verify a webhook that was saved or captured, without a server
#[derive(clap::Args)]
#[command(after_help = "\
Needs no server and no credentials. Says which secret made the signature, and what it covers; or
which check failed. Neither a secret nor the expected signature is ever printed.
Exit code 0: valid; 1: not valid; 2: wrong usage, or a file or stdout that fails.

A saved event is verified as of the time at which the server received it, unless --at is given.

Examples:
  wwproxy verify --scheme github --webhook-secret-file secret.txt \\
    --event saved/0192e4a0.json
  wwproxy verify --scheme stripe --webhook-secret-file old.txt \\
    --webhook-secret-file new.txt \\
    -H 'Stripe-Signature: t=1764363600,v1=...' --at 1764363600 body.json
  wwproxy verify --scheme slack --webhook-secret-file secret.txt \\
    -H @headers.txt body.json")]
pub(crate) struct Verify {
    #[command(flatten)]
    scheme: SchemeFlags,
    /// A file with a webhook secret, also as `WEBHOOK_SECRET` or `WEBHOOK_SECRET_FILE`; repeatable, up to 4
    #[arg(long, value_name = "FILE")]
    webhook_secret_file: Vec<PathBuf>,
    /// The public URL as registered with the sender, for senders that sign it
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// How far the timestamp may be from the clock, in seconds; by default as the sender says
    #[arg(long, value_name = "SECONDS")]
    tolerance: Option<u64>,
    /// The time of the verification: `now`, RFC 3339, or Unix seconds
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Time>,
    /// The HTTP method of the request, for senders that sign it
    #[arg(long, value_name = "METHOD", default_value = "POST")]
    method: String,
    /// A header of the request; `@FILE` reads some, one a line, `@-` from stdin. Repeatable
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = HeaderFlag::parse)]
    headers: Vec<HeaderFlag>,
    /// An event that `listen --save` wrote, with its headers
    #[arg(long, value_name = "FILE", conflicts_with = "body")]
    event: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// The file with the body; `-`, the default, is stdin
    #[arg(value_name = "BODY-FILE")]
    body: Option<PathBuf>,
}

/// The request to verify.
struct Captured {
    headers: Vec<(String, Vec<u8>)>,
    query: Option<String>,
    body: Bytes,
}

impl Verify {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        // Exit code 1 means that the webhook is not valid.
        let (scheme, secrets, now, request) =
            self.load().map_err(|error| UsageError(describe_error(&error)))?;
        let result = request.verify(&scheme, &secrets, &self, now);
        let report = Report { scheme: &scheme, secrets: secrets.len(), now, body: &request.body };
        let mut output = Output::stdout();
        let text = if self.json {
            let json = report.json(&result).to_string() + "\n";
            escape_json(json.as_bytes(), output.terminal).into_owned()
        } else {
            report.text(&result).into_bytes()
        };
        // A closed stdout is no error: the exit code is the result.
        output.write(&text).await.map_err(|error| UsageError(describe_error(&error)))?;
        let Err(rejection) = result else { return Ok(()) };
        if let Some(hint) = self.hint(&rejection, &request, &scheme, &secrets, now) {
            print_message(&hint);
        }
        Err(anyhow!("the webhook is not valid: {rejection}"))
    }

    /// Reads the flags and their files.
    fn load(&self) -> anyhow::Result<(Scheme, Vec<Secret>, SystemTime, Captured)> {
        let event = self.event.as_deref().map(read_event).transpose()?;
        let scheme = self.scheme(event.as_ref())?;
        if scheme.needs_url() && self.url.is_none() {
            return Err(usage(format!(
                "{} signs the URL: give --url as registered with the sender",
                scheme.name()
            )));
        }
        let secrets = read_secrets(&self.webhook_secret_file)?;
        let now = self.time(event.as_ref());
        Ok((scheme, secrets, now, self.request(event)?))
    }

    fn body_file(&self) -> &Path {
        self.body.as_deref().unwrap_or("-".as_ref())
    }

    /// The scheme of the flags, otherwise that by which the server verified the saved event. Servers of version 0.1 do not say it:
    /// they verify Watson Work only.
    fn scheme(&self, event: Option<&EventMessage>) -> anyhow::Result<Scheme> {
        let verification = event.and_then(|event| event.details.origin.verification.as_ref());
        let mut scheme = match (self.scheme.scheme()?, verification) {
            (Some(scheme), _) => scheme,
            (None, Some(verification)) if verification.scheme != "template" => preset(&verification.scheme)?,
            (None, None) if event.is_some_and(|event| !event.details.has_origin) => {
                print_message(
                    "the event does not say its sender; verified as of Watson Work, --scheme names another",
                );
                preset("watsonwork")?
            }
            (None, _) => self.scheme.required()?,
        };
        if let Some(seconds) = self.tolerance {
            let failed = |error| UsageError(format!("--tolerance cannot be used: {error}"));
            scheme.set_tolerance(seconds).map_err(failed)?;
        }
        Ok(scheme)
    }

    fn time(&self, event: Option<&EventMessage>) -> SystemTime {
        if let Some(at) = self.at {
            return at.or_now();
        }
        let received = event.and_then(|event| event.details.received_at);
        received
            .inspect(|time| {
                let time = humantime::format_rfc3339_seconds(*time);
                print_message(&format!(
                    "verified as of {time}, when the server received it; --at now verifies as of the current time"
                ));
            })
            .unwrap_or_else(SystemTime::now)
    }

    fn request(&self, event: Option<EventMessage>) -> anyhow::Result<Captured> {
        let given = read_headers(&self.headers)?;
        let (mut headers, query, body) = match event {
            // The bytes of a value are decoded as ISO 8859-1 in an event.
            Some(event) => {
                let bytes = |text: &str| text.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect();
                let headers = event.details.headers.iter().map(|(name, value)| (name.clone(), bytes(value)));
                (headers.collect(), event.details.query, event.body)
            }
            None => (Vec::new(), None, read_body(self.body_file(), "BODY-FILE")?),
        };
        headers.retain(|(name, _): &(String, _)| {
            !given.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
        });
        headers.extend(given.into_iter().map(|(name, value)| (name, value.into_bytes())));
        Ok(Captured { headers, query, body })
    }

    /// A frequent cause of this failure, if it can be found.
    fn hint(
        &self,
        rejection: &Rejection,
        request: &Captured,
        scheme: &Scheme,
        secrets: &[Secret],
        now: SystemTime,
    ) -> Option<String> {
        if rejection.check == Check::Header && self.event.is_some() {
            return Some("hint: a server does not keep the header Authorization; give it with -H if the sender signs there".into())
                .filter(|_| rejection.detail.contains("Authorization"));
        }
        if rejection.check != Check::Signature {
            return None;
        }
        let valid = |body: Vec<u8>| {
            let changed = Captured {
                headers: request.headers.clone(),
                query: request.query.clone(),
                body: body.into(),
            };
            changed.verify(scheme, secrets, self, now).is_ok()
        };
        let shorter = request.body.trim_ascii_end().to_vec();
        if shorter.len() < request.body.len() && valid(shorter) {
            return Some("hint: it is valid without the white space at the end of the body, which the file was given when it was saved".into());
        }
        let longer = [&request.body[..], b"\n"].concat();
        if valid(longer) {
            return Some(
                "hint: it is valid with a line end after the body, which is missing in the file".into(),
            );
        }
        let may_be_a_line =
            self.event.is_some() && request.body.contains(&b' ') && !request.body.contains(&b'\n');
        may_be_a_line.then(|| {
            "hint: `listen --format json` writes the line breaks of a JSON body as spaces, so that its signature cannot be verified; \
             `listen --save` keeps every byte"
                .into()
        })
    }
}

/// Reads a saved event. Any JSON object with an id and data could be read as one without headers, such as a webhook of Stripe.
fn read_event(path: &Path) -> anyhow::Result<EventMessage> {
    let event = event_file::read(path)?;
    if event.details.attempt.is_none() {
        return Err(usage(format!(
            "{} is not an event file of `wwproxy listen --save`: it has no \"attempt\" and no \"headers\"; give a body as BODY-FILE, and \
             its headers with -H",
            path.display()
        )));
    }
    Ok(event)
}

impl Captured {
    fn verify(
        &self,
        scheme: &Scheme,
        secrets: &[Secret],
        flags: &Verify,
        now: SystemTime,
    ) -> Result<Verified, Rejection> {
        let headers: Vec<_> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let request = Request {
            query: self.query.as_deref(),
            url: flags.url.as_deref(),
            ..Request::new(&flags.method, &headers, &self.body)
        };
        scheme.verify(secrets, &request, now)
    }
}
