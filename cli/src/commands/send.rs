//! `wwproxy send`: posts signed webhooks, as the platform does.

mod post;
mod sample;

use std::{
    io::{self, IsTerminal, Read},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow};
use clap::builder::PossibleValuesParser;
use indicatif::ProgressBar;
use reqwest::header::{HeaderName, HeaderValue};
use tokio::{
    select,
    time::{Instant, sleep_until},
};
use wwproxy_sdk::{Bytes, EventMessage, Secret};

use self::post::Hook;
use crate::{
    access::Access,
    error::{Refusal, UsageError},
    event_file,
    output::print_message,
    secret,
    selection::WATSON_WORK_TYPES,
    shutdown::Shutdown,
    target::{Address, TargetHttp, is_framing},
};

/// The largest body that is read from a file or stdin, in bytes.
const MAX_DATA_BYTES: u64 = 64 << 20;
/// The range of `--rate`, in webhooks per second.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

/// Post signed webhooks to a hook as the platform does, to test an app without it
#[derive(clap::Args)]
#[command(after_help = "\
The destination is the hook of --app-id on --server, or any --to URL, such as the app itself.
Exit code 1: a webhook was not accepted (2xx); 3: its signature was rejected; 4: the app is not
registered; 5: no response, or 503. With --count, an error that every further webhook would meet
ends it at once.

Examples:
  wwproxy send --webhook-secret-file secret.txt
  wwproxy send --type space-members-added --to http://localhost:3000/hook
  wwproxy send --data '{\"type\":\"message-created\",\"content\":\"hi\"}'
  jq -c . event.json | wwproxy send --data -
  wwproxy send --file saved/0192e4a0.json --to http://localhost:3000
  wwproxy send --count 1000 --rate 50
  wwproxy send --header 'X-Request-Id: 7' --header 'User-Agent: platform'
  wwproxy send --challenge")]
pub(crate) struct Send {
    /// The destination, instead of the app's hook on the server: a URL, a port of this machine, `HOST:PORT`, or `unix:/run/app.sock`
    #[arg(long, value_name = "URL", value_parser = Address::parse)]
    to: Option<Address>,
    /// Send a sample webhook of Watson Work of this type, with new ids and the current time; use --data for any other body
    #[arg(long = "type", value_name = "TYPE", default_value = "message-created", value_parser = PossibleValuesParser::new(WATSON_WORK_TYPES), conflicts_with_all = ["data", "file", "challenge"])]
    kind: String,
    /// Send this body, byte for byte; `@FILE` reads it from a file, `-` from stdin
    #[arg(long, value_name = "JSON", conflicts_with_all = ["file", "challenge"])]
    data: Option<String>,
    /// Send an event that `listen --save` wrote, with its headers; without a webhook secret, with its original signature
    #[arg(long, value_name = "FILE", conflicts_with = "challenge")]
    file: Option<PathBuf>,
    /// Send a verification challenge, and check the response
    #[arg(long)]
    challenge: bool,
    /// Add this header, in place of headers of the same name; repeatable
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The number of webhooks
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "challenge")]
    count: u64,
    /// Webhooks per second; by default each is sent when the one before is answered
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    rate: Option<f64>,
    /// The webhook secret to sign with; safer in a file, or in the environment as `WEBHOOK_SECRET`
    #[arg(long, value_name = "SECRET")]
    webhook_secret: Option<String>,
    /// A file with the webhook secret, also as `WEBHOOK_SECRET_FILE`; `-` is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "webhook_secret")]
    webhook_secret_file: Option<PathBuf>,
    /// The timeout of one webhook
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    http: TargetHttp,
}

/// The content of the webhooks.
enum Content {
    Sample(String),
    Body(Bytes),
    Saved(Box<EventMessage>),
}

impl Send {
    pub(crate) async fn run(self, access: Access) -> anyhow::Result<()> {
        let server = access.http()?;
        let (address, options) = match &self.to {
            Some(to) => {
                self.http.warn();
                (to.clone(), self.http.options(to, &server))
            }
            None => (Address::from_url(access.hook()?), server),
        };
        let secret =
            secret::webhook_secret(self.webhook_secret.as_deref(), self.webhook_secret_file.as_deref())?;
        let http = self.http.client(&address, &options)?;
        let flags = self.to.is_some().then_some(self.http);
        let headers = self.headers.iter().cloned().collect();
        let hook = Hook::new(address, http, options, self.timeout, flags, headers);
        if self.challenge {
            return hook.challenge(&secret.ok_or_else(no_secret)?).await;
        }
        let content = self.content()?;
        if secret.is_none() && !matches!(content, Content::Saved(_)) {
            return Err(no_secret().into());
        }
        self.send_all(&hook, &content, secret.as_ref()).await
    }

    fn content(&self) -> anyhow::Result<Content> {
        Ok(match (&self.file, &self.data) {
            (Some(path), _) => Content::Saved(Box::new(event_file::read(path)?)),
            (None, Some(data)) if data == "-" => Content::Body(read(io::stdin().lock(), "stdin")?),
            (None, Some(data)) => match data.strip_prefix('@') {
                Some(path) => {
                    let file = std::fs::File::open(path).with_context(|| format!("cannot read {path}"))?;
                    Content::Body(read(file, path)?)
                }
                None => Content::Body(data.clone().into()),
            },
            (None, None) => Content::Sample(self.kind.clone()),
        })
    }

    /// Sends the webhooks one by one, at the given rate or as soon as the one before is answered.
    async fn send_all(&self, hook: &Hook, content: &Content, secret: Option<&Secret>) -> anyhow::Result<()> {
        let shutdown = Shutdown::on_signal()?;
        let bar = if self.count > 1 && io::stderr().is_terminal() {
            ProgressBar::new(self.count)
        } else {
            ProgressBar::hidden()
        };
        let (start, first_index) = (Instant::now(), first_index());
        let mut sent = Sent { wanted: self.count, answered: 0, accepted: 0, refusal: None };
        for n in 0..self.count {
            if let Some(rate) = self.rate {
                // Precision is lost only above 2^53 webhooks.
                #[allow(clippy::cast_precision_loss)]
                let due = start + Duration::from_secs_f64(n as f64 / rate);
                select! { () = sleep_until(due) => {} () = shutdown.requested() => break }
            }
            let (body, saved) = match content {
                Content::Sample(kind) => (sample::body(kind, SystemTime::now()).into(), None),
                Content::Body(body) => (body.clone(), None),
                Content::Saved(event) => (event.body.clone(), Some(&**event)),
            };
            let posted = select! {
                posted = hook.post(body, saved, secret, first_index + n) => posted,
                () = shutdown.grace_expired() => break,
            };
            let continues = sent.count(posted);
            bar.inc(1);
            if !continues || shutdown.is_requested() {
                break;
            }
        }
        bar.finish_and_clear();
        sent.into_result(hook)
    }
}

/// The outcomes of the webhooks.
struct Sent {
    wanted: u64,
    answered: u64,
    accepted: u64,
    /// The first webhook that was not accepted.
    refusal: Option<Refusal>,
}

impl Sent {
    /// Counts an outcome. Returns whether the next webhook may be accepted.
    fn count(&mut self, posted: Result<(), Refusal>) -> bool {
        self.answered += 1;
        match posted {
            Ok(()) => {
                self.accepted += 1;
                true
            }
            Err(refusal) => {
                let continues = !refusal.is_permanent();
                self.refusal.get_or_insert(refusal);
                continues
            }
        }
    }

    fn into_result(self, hook: &Hook) -> anyhow::Result<()> {
        let Self { wanted, answered, accepted, refusal } = self;
        let counts = format!("{answered} sent to {}, {accepted} accepted", hook.display());
        match refusal {
            Some(refusal) if answered == 1 => Err(refusal.into()),
            Some(refusal) => Err(anyhow!(refusal).context(format!("{counts}; the first that was not"))),
            None if answered < wanted => Err(anyhow!("stopped: {counts}, of {wanted} wanted")),
            None => {
                print_message(&counts);
                Ok(())
            }
        }
    }
}

fn no_secret() -> UsageError {
    UsageError("give the webhook secret to sign with: --webhook-secret-file or WEBHOOK_SECRET".into())
}

/// The time in microseconds, so that indices of later runs are higher and the server's deduplication drops none.
fn first_index() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

fn read(input: impl Read, name: &str) -> anyhow::Result<Bytes> {
    let mut data = Vec::new();
    input.take(MAX_DATA_BYTES + 1).read_to_end(&mut data).with_context(|| format!("cannot read {name}"))?;
    if data.len() as u64 > MAX_DATA_BYTES {
        return Err(UsageError(format!("{name} is larger than {MAX_DATA_BYTES} bytes")).into());
    }
    Ok(data.into())
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("give NAME: VALUE")?;
    let name: HeaderName = name.trim().parse().map_err(|_| "the name is not a valid header name")?;
    let value: HeaderValue = value.trim().parse().map_err(|_| "the value is not a valid header value")?;
    if is_framing(&name) {
        return Err(format!("{name} belongs to the framing of the request and cannot be set"));
    }
    Ok((name, value))
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok().filter(|rate| RATES.contains(rate));
    rate.ok_or_else(|| format!("give webhooks per second, {} to {}", RATES.start(), RATES.end()))
}
