//! `wwproxy consumers`

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, SystemTime},
};

use anyhow::anyhow;
use wwproxy_sdk::{Client, ConsumerName, ConsumerSettings, ConsumerStatus, Overflow, SourceName, Start};

use super::listen::parse_start;
use crate::{
    duration::parse_duration,
    error::UsageError,
    output::{counted, print_data, print_message},
    prompt::{self, Prompt},
    table::{ago, aligned},
};

/// List the consumers of the app, or create, move or delete one
#[derive(clap::Args)]
#[command(after_help = "\
A consumer is a named position in the app's events, with a filter. Each consumer gets all events that
match; the clients of one consumer share them. `default` takes everything; it is the consumer of a
client that names none. On a terminal it prints a table, otherwise JSON, one consumer a line. Dead
events are not delivered any more: see `listen --on-failure dead` and --dead-after.

Examples:
  wwproxy consumers
  wwproxy consumers --json | jq -r 'select(.dead > 0) | .name'
  wwproxy consumers create audit --type 'issues.*' --source repo --since all
  wwproxy listen --consumer audit
  wwproxy consumers seek audit 1h
  wwproxy consumers delete audit --yes")]
pub(crate) struct Consumers {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print JSON, one consumer a line; the default without a terminal
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the consumers
    #[command(after_help = "Example:\n  wwproxy consumers list --json | jq .pending")]
    List {
        /// Print JSON, one consumer a line; the default without a terminal
        #[arg(long)]
        json: bool,
    },
    Create(Create),
    /// Move a consumer to another position: its events from there on are delivered, again or for the first time
    #[command(after_help = "\
Leases end, and dead events stay dead.

Examples:
  wwproxy consumers seek audit 1h
  wwproxy consumers seek audit 2026-01-31T12:00:00Z
  wwproxy consumers seek audit new")]
    Seek {
        /// The name of the consumer
        #[arg(value_name = "NAME")]
        name: ConsumerName,
        /// The position: a time ago such as `1h`, a time, after an event id, `all` or `new`
        #[arg(value_name = "START", value_parser = parse_start)]
        to: Start,
    },
    /// Delete a consumer, and close the connections of its clients; the events stay for other consumers
    #[command(after_help = "Example:\n  wwproxy consumers delete audit --yes")]
    Delete {
        /// The name of the consumer
        #[arg(value_name = "NAME")]
        name: ConsumerName,
        /// Do not ask for confirmation. Without a terminal it never asks
        #[arg(short, long)]
        yes: bool,
    },
}

/// Create a consumer, or change --dead-after, --overflow and --idle-expiry of an existing one
#[derive(clap::Args)]
#[command(after_help = "\
The filter (--type, --source) and the start (--since) cannot change later: delete the consumer and
create it again, or use another name.

Examples:
  wwproxy consumers create audit
  wwproxy consumers create ci --type push --type 'pull_request.*' --source repo --dead-after 20
  wwproxy consumers create default --overflow drop-oldest")]
struct Create {
    /// The name of the consumer
    #[arg(value_name = "NAME")]
    name: ConsumerName,
    /// Only events of this type; `*` matches any text. Repeatable
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only events of this source. Repeatable
    #[arg(long = "source", value_name = "NAME")]
    sources: Vec<SourceName>,
    /// Where it begins: a time ago such as `1h`, a time, after an event id, `all` or `new`
    #[arg(long, value_name = "START", default_value = "new", value_parser = parse_start)]
    since: Start,
    /// After this number of deliveries an event is dead: it is kept but not delivered again; 0 for never
    #[arg(long, value_name = "N", default_value_t = 0)]
    dead_after: u32,
    /// Only for `default`: what happens to a webhook that finds it full. `reject` it, so that its sender retries, `drop-oldest` events,
    /// or `off`: `default` gets no events at all. By default the setting of the server
    #[arg(long, value_name = "WHAT", value_parser = parse_overflow)]
    overflow: Option<Overflow>,
    /// Remove the consumer when no client has used it for this time, such as `7d`; by default the setting of the server. Not for
    /// `default`
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    idle_expiry: Option<Duration>,
}

fn parse_overflow(text: &str) -> Result<Overflow, String> {
    match text {
        "reject" => Ok(Overflow::Reject),
        "drop-oldest" => Ok(Overflow::DropOldest),
        "off" => Ok(Overflow::Off),
        _ => Err("give reject, drop-oldest or off".into()),
    }
}

impl Consumers {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        match self.action {
            None => list(client, self.json).await,
            Some(Action::List { json }) => list(client, json || self.json).await,
            Some(Action::Create(create)) => create.run(client).await,
            Some(Action::Seek { name, to }) => seek(client, &name, to).await,
            Some(Action::Delete { name, yes }) => delete(client, &name, yes).await,
        }
    }
}

async fn list(client: &Client, as_json: bool) -> anyhow::Result<()> {
    let consumers = client.consumers().await?;
    let text = if as_json || !io::stdout().is_terminal() {
        consumers.iter().map(json).collect()
    } else {
        table(&consumers, SystemTime::now())
    };
    print_data(&text).await?;
    Ok(())
}

impl Create {
    async fn run(self, client: &Client) -> anyhow::Result<()> {
        let Self { name, types, sources, since, dead_after, overflow, idle_expiry } = self;
        let settings = ConsumerSettings {
            types: types.into_iter().collect(),
            sources: sources.into_iter().collect(),
            start: since,
            max_attempts: dead_after,
            overflow,
            idle_expiry,
        };
        let valid = settings.check().and_then(|()| settings.check_name(&name));
        valid.map_err(|error| UsageError(error.to_string()))?;
        let consumer = client.consumer(name.as_str())?;
        let is_off = overflow == Some(Overflow::Off);
        let pending = if is_off { consumer.status().await?.pending } else { None };
        let is_new = consumer.create(&settings).await?;
        let done = if is_new { "created" } else { "changed" };
        let effect = if is_off {
            format!("it receives no events, and what it had not settled ({}) was dropped", count(pending))
        } else {
            format!("`wwproxy listen --consumer {name}` takes its events")
        };
        print_message(&format!("{done} consumer {name} of {}; {effect}", client.app_id()));
        Ok(())
    }
}

async fn seek(client: &Client, name: &ConsumerName, to: Start) -> anyhow::Result<()> {
    client.consumer(name.as_str())?.seek(to.clone()).await?;
    print_message(&format!("moved consumer {name} of {} to {to}", client.app_id()));
    Ok(())
}

async fn delete(client: &Client, name: &ConsumerName, yes: bool) -> anyhow::Result<()> {
    let (app, consumer) = (client.app_id(), client.consumer(name.as_str())?);
    if !yes && prompt::is_interactive() {
        let status = consumer.status().await?;
        let dead = counted(status.dead, "dead event", "dead events");
        let question = format!(
            "Delete consumer {name} of {app} with its position ({} pending, {dead})?",
            count(status.pending)
        );
        if !Prompt::new()?.confirm(&question).await? {
            return Err(anyhow!("consumer {name} still exists; nothing was deleted"));
        }
    }
    consumer.delete().await?;
    print_message(&format!("deleted consumer {name} of {app}"));
    Ok(())
}

fn json(consumer: &ConsumerStatus) -> String {
    serde_json::to_string(consumer).expect("texts and numbers have a JSON form") + "\n"
}

/// A number that the server may still have to count.
pub(super) fn count(number: Option<u64>) -> String {
    number.map_or_else(|| "?".to_owned(), |number| number.to_string())
}

fn table(consumers: &[ConsumerStatus], now: SystemTime) -> String {
    let heads =
        ["NAME", "TYPES", "SOURCES", "PENDING", "OLDEST", "LEASED", "DEAD", "DROPPED", "CLIENTS", "USED"];
    let all = |names: Vec<&str>| if names.is_empty() { "all".to_owned() } else { names.join(" ") };
    let age = |ms| humantime::format_duration(Duration::from_secs(ms / 1000)).to_string();
    let rows = consumers.iter().map(|consumer| {
        [
            consumer.name.to_string(),
            all(consumer.types.iter().map(String::as_str).collect()),
            all(consumer.sources.iter().map(SourceName::as_str).collect()),
            if consumer.overflow.as_deref() == Some("off") {
                "off".to_owned()
            } else {
                count(consumer.pending)
            },
            consumer.oldest_pending_age_ms.map_or_else(|| "-".to_owned(), age),
            consumer.leased.to_string(),
            consumer.dead.to_string(),
            consumer.dropped.to_string(),
            consumer.clients.to_string(),
            consumer.last_used.as_deref().map_or_else(|| "-".to_owned(), |time| ago(time, now)),
        ]
    });
    aligned(&[heads.map(str::to_owned)].into_iter().chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_consumer() {
        let consumer: ConsumerStatus = serde_json::from_str(
            r#"{"name":"audit","types":["push","issues.*"],"sources":[],"start":"new","maxAttempts":3,"pending":null,"pendingBytes":null,
                "leased":1,"dead":2,"dropped":3,"oldestPendingAgeMs":61000,"lastUsed":"2026-01-31T12:00:00Z","clients":4}"#,
        )
        .unwrap();
        let now = humantime::parse_rfc3339("2026-01-31T12:00:05Z").unwrap();
        let table = table(std::slice::from_ref(&consumer), now);
        let cells: Vec<_> = table
            .lines()
            .nth(1)
            .unwrap()
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect();
        assert_eq!(cells, ["audit", "push issues.*", "all", "?", "1m 1s", "1", "2", "3", "4", "5s ago"]);
        let mut off = consumer;
        off.overflow = Some("off".into());
        assert!(super::table(&[off], now).lines().nth(1).unwrap().contains("all      off"));
    }
}
