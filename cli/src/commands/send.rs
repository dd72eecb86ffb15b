//! `wwproxy send`: posts signed webhooks, as the platform does.

mod challenge;
mod post;
mod request;

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::anyhow;
use indicatif::ProgressBar;
use reqwest::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use tokio::{
    select,
    time::{Instant, sleep_until},
};
use wwproxy_sdk::{Bytes, EventMessage, SourceName, scheme::Scheme};

use self::{post::Hook, request::Sender};
use crate::{
    access::Access,
    duration::parse_duration,
    error::{Refusal, UsageError},
    event_file,
    output::print_message,
    scheme::{SchemeFlags, nearest, preset, read_body},
    secret,
    shutdown::Shutdown,
    target::{Address, TargetHttp, is_framing},
};

/// The range of `--rate`, in webhooks per second.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

/// Post signed webhooks to a hook as their sender does, to test an app without the sender
#[derive(clap::Args)]
#[command(after_help = "\
The destination is the hook of --app-id on --server, or any --to URL, such as the app itself.
Without --scheme the webhooks are those of Watson Work: message-created, message-edited,
message-deleted, message-annotation-added, message-annotation-removed, reaction-added,
reaction-removed, space-members-added, space-members-removed, space-updated, space-deleted.
For senders that sign with a private key, such as Discord, the secret is the private key: see
`wwproxy sign --help`.
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
  wwproxy send --challenge
  wwproxy send --scheme stripe --source stripe --type invoice.paid \\
    --webhook-secret-file secret.txt
  wwproxy send --scheme github --source repo --type push --data @body.json
  wwproxy send --scheme square --url https://example.com/hook \\
    --data @body.json --to 3000
  wwproxy send --scheme meta --source meta --challenge \\
    --challenge-secret-file verify-token.txt")]
pub(crate) struct Send {
    /// The destination, instead of the app's hook on the server: a URL, a port of this machine, `HOST:PORT`, or `unix:/run/app.sock`
    #[arg(long, value_name = "URL", value_parser = Address::parse)]
    to: Option<Address>,
    #[command(flatten)]
    scheme: SchemeFlags,
    /// The source of the app to which the server's hook belongs; by default that of the saved event (--file), otherwise `default`
    #[arg(long, value_name = "NAME", conflicts_with = "to")]
    source: Option<SourceName>,
    /// Send a sample of this type, with new ids and the current time; by default the sender's most common type. `wwproxy schemes NAME`
    /// lists them. With --data: the type in the header of senders that have one
    #[arg(long = "type", value_name = "TYPE", conflicts_with_all = ["file", "challenge"])]
    kind: Option<String>,
    /// The public URL as registered with the sender, for senders that sign it; by default the destination
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Send this body, byte for byte; `@FILE` reads it from a file, `-` from stdin
    #[arg(long, value_name = "BODY", conflicts_with_all = ["file", "challenge"])]
    data: Option<String>,
    /// Send an event that `listen --save` wrote, with its headers, query and path after the hook; without a webhook secret, with its original signature
    #[arg(long, value_name = "FILE", conflicts_with = "challenge")]
    file: Option<PathBuf>,
    /// Send the challenge by which the sender checks a hook, and check the response
    #[arg(long)]
    challenge: bool,
    /// A file with the second secret of senders whose challenge has one, such as Meta's verify token; `-` is stdin
    #[arg(long, value_name = "FILE", requires = "challenge")]
    challenge_secret_file: Option<PathBuf>,
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
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    http: TargetHttp,
}

/// The content of the webhooks.
enum Content {
    /// Samples of this type.
    Sample(String),
    /// This body, with this type in the header of senders that have one.
    Body(Bytes, Option<String>),
    Saved(Box<EventMessage>),
}

impl Send {
    pub(crate) async fn run(self, access: Access) -> anyhow::Result<()> {
        let server = access.http()?;
        let app = access.app_id()?;
        let saved = self.file.as_deref().map(event_file::read).transpose()?;
        let (address, options) = if let Some(to) = &self.to {
            self.http.warn();
            (to.clone(), self.http.options(to, &server))
        } else {
            let of_event = saved.as_ref().map(|event| event.source().clone());
            let source = self.source.clone().or(of_event).unwrap_or_default();
            (Address::from_url(access.hook(&source)?), server)
        };
        let secret =
            secret::webhook_secret(self.webhook_secret.as_deref(), self.webhook_secret_file.as_deref())?;
        let scheme = self.scheme(saved.as_ref())?;
        let content = if self.challenge { None } else { Some(self.content(saved, &scheme)?) };
        // A challenge with a secret of its own is not signed.
        let needs_secret = match content {
            Some(Content::Saved(_)) => false,
            Some(_) => true,
            None => !scheme.has_challenge_secret(),
        };
        if secret.is_none() && needs_secret {
            return Err(no_secret().into());
        }
        if secret.is_some() && scheme.is_unverified() {
            let missing = "give --scheme or --template to sign this event again, or no webhook secret to send it as it is";
            return Err(UsageError(missing.into()).into());
        }
        let http = self.http.client(&address, &options)?;
        let flags = self.to.is_some().then_some(self.http);
        let headers = self.headers.iter().cloned().collect();
        let sender = Sender { scheme, secret, url: self.url.clone() };
        let hook = Hook::new(address, app, http, options, self.timeout, flags, headers);
        let sent = match content {
            Some(content) => self.send_all(&hook, &sender, &content).await,
            None => challenge::send(&hook, &sender, self.challenge_secret_file.as_deref()).await,
        };
        sent.map_err(|error| self.suggest_source(error))
    }

    /// Adds to a refusal by the source `default`, if it was not chosen, that there are others.
    fn suggest_source(&self, mut error: anyhow::Error) -> anyhow::Error {
        let is_chosen = self.to.is_some() || self.source.is_some() || self.file.is_some();
        if let Some(refusal) = error.downcast_mut::<Refusal>().filter(|_| !is_chosen)
            && matches!(refusal.status, Some(StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND))
        {
            refusal
                .message
                .push_str(" (the hook is that of the source default: --source NAME sends to another)");
        }
        error
    }

    /// The scheme of the flags, otherwise that of the saved event, otherwise Watson Work.
    fn scheme(&self, saved: Option<&EventMessage>) -> anyhow::Result<Scheme> {
        let verification = saved.and_then(|event| event.details.origin.verification.as_ref());
        match (self.scheme.scheme()?, verification) {
            (Some(scheme), _) => Ok(scheme),
            // A template is not saved with the event.
            (None, Some(verification)) => {
                Ok(Scheme::preset(&verification.scheme).unwrap_or_else(Scheme::unverified))
            }
            (None, None) if saved.is_some_and(EventMessage::is_unverified) => Ok(Scheme::unverified()),
            (None, None) => preset("watsonwork"),
        }
    }

    fn content(&self, saved: Option<EventMessage>, scheme: &Scheme) -> anyhow::Result<Content> {
        if scheme.name() == "watsonwork" && self.kind.is_some() && self.data.is_some() {
            return Err(UsageError(
                "--type cannot be used with --data: Watson Work has it in the body".into(),
            )
            .into());
        }
        if let Some(event) = saved {
            return Ok(Content::Saved(Box::new(event)));
        }
        let Some(data) = &self.data else { return self.sample_type(scheme).map(Content::Sample) };
        let body = match data.strip_prefix('@') {
            _ if data == "-" => read_body("-".as_ref(), "--data")?,
            Some(path) => read_body(path.as_ref(), "--data")?,
            None => data.clone().into(),
        };
        Ok(Content::Body(body, self.kind.clone()))
    }

    /// The type of the samples to send.
    fn sample_type(&self, scheme: &Scheme) -> anyhow::Result<String> {
        let (types, name) = (scheme.sample_types(), scheme.name());
        let Some(first) = types.first() else {
            return Err(UsageError(format!("there are no samples of {name}: give --data or --file")).into());
        };
        let kind = self.kind.as_deref().unwrap_or(first);
        if types.contains(&kind) {
            return Ok(kind.to_owned());
        }
        let near = nearest(kind, types.iter().copied());
        let near = near.map(|near| format!("did you mean '{near}'? ")).unwrap_or_default();
        Err(UsageError(format!(
            "{name} has no sample of type '{kind}'; {near}there are {}; --data sends any other body",
            types.join(", ")
        ))
        .into())
    }

    /// Sends the webhooks one by one, at the given rate or as soon as the one before is answered.
    async fn send_all(&self, hook: &Hook, sender: &Sender, content: &Content) -> anyhow::Result<()> {
        if let Some(note) = sender.note_of_repeated_ids(content, self.count) {
            print_message(&note);
        }
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
            let request = sender.request(content, first_index + n, hook)?;
            let posted = select! {
                posted = hook.post(request) => posted,
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
