//! The consumer of `listen`: named, ephemeral, or `default`.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::{
    select,
    time::{Instant, sleep, sleep_until},
};
use wwproxy_sdk::{
    Backoff, Client, Consumer, ConsumerName, ConsumerSettings, ConsumerStatus, Error, ErrorKind,
    ListenOptions, Start, Subscription,
};

use crate::{
    error::UsageError,
    output::{describe_error, print_message, seconds},
    selection::Selection,
    shutdown::Shutdown,
};

/// Whose events are taken, and from where on.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Consumer")]
pub(super) struct ConsumerFlags {
    /// Take the events of this consumer: a position of its own in the app's events. --type and --source are then its filter on the
    /// server, where `*` is the only wildcard of a type, and a source is a name
    #[arg(long, value_name = "NAME")]
    consumer: Option<ConsumerName>,
    /// Create the consumer if the app does not have it
    #[arg(long, requires = "consumer")]
    create: bool,
    /// Begin there: a time ago such as `1h`, a time, after an event id, `all` or `new`. With --create it is where a new consumer
    /// begins (by default `new`). Without --consumer it shows history and takes nothing from other clients
    #[arg(long, value_name = "START", value_parser = parse_start)]
    since: Option<Start>,
    /// With --create: after this number of deliveries an event is dead, it is kept but not delivered again; 0 for never
    #[arg(long, value_name = "N", requires = "create", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    dead_after: Option<u32>,
}

/// Parses where to begin: a position, or a duration before now.
pub(crate) fn parse_start(text: &str) -> Result<Start, String> {
    let wrong =
        |_| "give a time ago such as 1h, a time such as 2026-01-31T12:00:00Z, an event id, all or new".into();
    Start::since(text, SystemTime::now()).map_err(wrong)
}

/// The consumer whose events are taken.
pub(super) enum Cursor {
    /// `default`, which other clients of the app share.
    Default,
    Named(Consumer),
    /// One of this process only.
    Ephemeral(Start),
}

impl Cursor {
    pub(super) fn listen(&self, client: &Client, options: ListenOptions) -> Subscription {
        match self {
            Self::Default => client.listen(options),
            Self::Named(consumer) => consumer.listen(options),
            Self::Ephemeral(start) => client.listen(options.since(start.clone())),
        }
    }

    /// The app and the consumer, for the first message.
    pub(super) fn describe(&self, client: &Client) -> String {
        let app = client.app_id();
        match self {
            Self::Default => format!("app {app}"),
            Self::Named(consumer) => format!("app {app}, consumer {}", consumer.name()),
            Self::Ephemeral(start) => format!("app {app}, since {start}"),
        }
    }

    /// What is said about skipped events: on the first one, and in the summary.
    pub(super) fn skip_advice(&self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Default => (
                ", and no client gets it (--leave-unmatched leaves such events on the server, and --consumer NAME --create takes no \
                 events from others)",
                Some(
                    "events that did not match were acknowledged: no client of the consumer default gets them, but they remain in the server's \
                     history. With a consumer of its own a client takes no events from others: \
                     `wwproxy listen --consumer NAME --create --type TYPE`",
                ),
            ),
            Self::Named(_) => (
                ", and no client of this consumer gets it (--leave-unmatched leaves such events on the server)",
                None,
            ),
            Self::Ephemeral(_) => ("; other clients get it all the same", None),
        }
    }

    /// The name, if other clients can share its events.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Default => Some("default"),
            Self::Named(consumer) => Some(consumer.name().as_str()),
            Self::Ephemeral(_) => None,
        }
    }
}

impl ConsumerFlags {
    /// Finds or creates the consumer, and moves its filter out of the selection. While the server cannot be reached, it is retried like
    /// a connection. `None`: a signal stopped it.
    ///
    /// # Errors
    /// There is no such consumer, or it has another filter.
    pub(super) async fn open(
        self,
        client: &Client,
        selection: &mut Selection,
        max_wait: Option<Duration>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Option<Cursor>> {
        let Some(name) = &self.consumer else {
            return Ok(Some(self.since.map_or(Cursor::Default, Cursor::Ephemeral)));
        };
        if self.since.is_some() && !self.create {
            return Err(UsageError(format!(
                "--since counts when a consumer is created: give --create as well, or move it with `wwproxy consumers seek {name} START`"
            ))
            .into());
        }
        let consumer = client.consumer(name.as_str())?;
        let (types, sources) = selection.take_consumer_filter()?;
        let wanted = ConsumerSettings {
            types,
            sources,
            start: self.since.clone().unwrap_or_default(),
            max_attempts: self.dead_after.unwrap_or_default(),
            ..ConsumerSettings::default()
        };
        wanted.check().map_err(|error| UsageError(error.to_string()))?;
        let deadline = max_wait.and_then(|wait| Instant::now().checked_add(wait));
        let mut backoff = Backoff::default();
        loop {
            let error = select! {
                () = shutdown.requested() => return Ok(None),
                ready = self.ready(&consumer, &wanted) => match ready {
                    Ok(()) => return Ok(Some(Cursor::Named(consumer))),
                    Err(error) => error,
                },
            };
            let transient = error.downcast_ref::<Error>().filter(|error| error.is_transient());
            let Some(retry_after) = transient.map(Error::retry_after) else { return Err(error) };
            let delay = backoff.next(retry_after);
            print_message(&format!("{}; retrying in {}", describe_error(&error), seconds(delay)));
            select! {
                () = shutdown.requested() => return Ok(None),
                () = sleep(delay) => {}
                () = until(deadline) => return Err(error),
            }
        }
    }

    /// Checks the consumer, or creates it.
    async fn ready(&self, consumer: &Consumer, wanted: &ConsumerSettings) -> anyhow::Result<()> {
        let name = consumer.name();
        match consumer.status().await {
            Ok(status) => {
                check_filter(&status, wanted, self.create)?;
                if self.since.is_some() {
                    print_message(&format!(
                        "consumer {name} exists and continues where it is: --since counts when it is created; \
                         `wwproxy consumers seek {name} START` moves it"
                    ));
                }
                if let Some(max_attempts) =
                    self.dead_after.filter(|attempts| *attempts != status.max_attempts)
                {
                    consumer.create(&ConsumerSettings { max_attempts, ..status.settings() }).await?;
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotRegistered && self.create => {
                if consumer.create(wanted).await? {
                    print_message(&format!("created consumer {name}"));
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotRegistered => {
                Err(error).context("give --create to create it")
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Checks that an existing consumer has the filter of --type and --source, which cannot change. Without `all` only those are
/// compared that were given.
fn check_filter(status: &ConsumerStatus, wanted: &ConsumerSettings, all: bool) -> Result<(), UsageError> {
    let current = status.settings();
    let sources = |settings: &ConsumerSettings| settings.sources.iter().map(ToString::to_string).collect();
    let types = |settings: &ConsumerSettings| settings.types.iter().cloned().collect();
    for (flag, wanted, current) in
        [("--type", types(wanted), types(&current)), ("--source", sources(wanted), sources(&current))]
    {
        let (wanted, current): (Vec<String>, Vec<String>) = (wanted, current);
        if wanted != current && (all || !wanted.is_empty()) {
            let name = &status.name;
            return Err(UsageError(format!(
                "consumer {name} has {}, not {}, and its filter cannot change: use another name, or \
                 `wwproxy consumers delete {name}` and create it again",
                flags(flag, &current),
                flags(flag, &wanted)
            )));
        }
    }
    Ok(())
}

/// The flags that give these values.
fn flags(flag: &str, values: &[String]) -> String {
    if values.is_empty() {
        return format!("no {flag}");
    }
    values
        .iter()
        .map(|value| format!("{flag} '{}'", wwproxy_sdk::sanitize(value)))
        .collect::<Vec<_>>()
        .join(" ")
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_consumer_must_have_the_filter_that_is_given() {
        let settings = |types: &[&str], sources: &[&str]| ConsumerSettings {
            types: types.iter().map(ToString::to_string).collect(),
            sources: sources.iter().map(|name| name.parse().unwrap()).collect(),
            ..ConsumerSettings::default()
        };
        let status: ConsumerStatus = serde_json::from_str(
            r#"{"name":"audit","types":["push"],"sources":[],"start":"new","maxAttempts":0,"pending":0,"pendingBytes":0,
                "leased":0,"dead":0,"dropped":0,"oldestPendingAgeMs":null,"lastUsed":null,"clients":0}"#,
        )
        .unwrap();
        for (wanted, all, fits) in [
            (settings(&["push"], &[]), true, true),
            (settings(&[], &[]), false, true),
            (settings(&[], &[]), true, false),
            (settings(&["push", "pull"], &[]), false, false),
            (settings(&["push"], &["repo"]), false, false),
        ] {
            assert_eq!(check_filter(&status, &wanted, all).is_ok(), fits, "{wanted:?} {all}");
        }
        let error = check_filter(&status, &settings(&["pull"], &[]), false).unwrap_err();
        assert!(error.0.starts_with("consumer audit has --type 'push', not --type 'pull'"), "{error}");
    }

    #[test]
    fn a_start_is_a_time_ago_a_time_or_an_event() {
        assert!(matches!(parse_start("1h"), Ok(Start::At(_))));
        assert_eq!(parse_start("all"), Ok(Start::All));
        assert!(parse_start("2026-13-01").unwrap_err().contains("a time such as"));
    }
}
