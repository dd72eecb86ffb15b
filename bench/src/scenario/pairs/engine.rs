//! The two engines behind the calls that are measured.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use clap::ValueEnum;
use futures_util::future::BoxFuture;
use wwproxy_protocol::{AppId, Secret, Source, SourceName};
use wwproxy_server::store::{
    self, Lease, Limits, NewEvent, RedbStore, Registration, SqliteStore, Store, log,
};

use super::super::MIB;

/// The longest lease of the consumers.
const LEASE: Duration = Duration::from_secs(600);
/// Events that one call of a consumer leases, at most.
const MAX_LEASED: usize = 64;

/// A storage engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    Redb,
    Sqlite,
}

impl Kind {
    /// Opens a store without limits.
    pub(super) async fn open(self, folder: &Path) -> anyhow::Result<Arc<dyn Engine>> {
        Ok(match self {
            Self::Redb => {
                let limits =
                    Limits { max_queued_events: usize::MAX, max_queued_bytes: u64::MAX, ..Limits::default() };
                Arc::new(RedbStore::open(folder, limits)?)
            }
            Self::Sqlite => {
                let limits = log::Limits {
                    max_pending_events: u64::MAX,
                    max_pending_bytes: u64::MAX,
                    ..log::Limits::default()
                };
                Arc::new(SqliteStore::open(folder, limits).await?)
            }
        })
    }
}

/// One engine behind the calls that are measured.
pub(super) trait Engine: Send + Sync {
    fn register<'a>(&'a self, app: &'a AppId) -> BoxFuture<'a, anyhow::Result<()>>;
    fn append<'a>(&'a self, app: &'a AppId, event: NewEvent) -> BoxFuture<'a, anyhow::Result<()>>;
    /// Leases and acknowledges events, and returns how many.
    fn consume<'a>(&'a self, app: &'a AppId, wait: Duration) -> BoxFuture<'a, anyhow::Result<usize>>;
    fn close(&self) -> BoxFuture<'_, anyhow::Result<()>>;
}

/// The source that verifies the webhooks of the benchmark.
fn default_source(registration: Option<Arc<Registration>>) -> anyhow::Result<Arc<Source>> {
    let registration = registration.context("the app is not registered")?;
    Ok(Arc::clone(registration.source(&SourceName::default()).context("the app has no source default")?))
}

fn lease(wait: Duration) -> Lease {
    Lease { max_events: MAX_LEASED, max_bytes: 8 * MIB, wait, time: LEASE }
}

fn log_lease(wait: Duration) -> log::Lease {
    log::Lease { max_events: MAX_LEASED, max_bytes: 8 * MIB, wait, time: LEASE }
}

impl Engine for RedbStore {
    fn register<'a>(&'a self, app: &'a AppId) -> BoxFuture<'a, anyhow::Result<()>> {
        let registration = Registration::watson_work(Secret::new("secret"));
        Box::pin(async { Ok(Store::put_registration(self, app, registration).await?) })
    }

    fn append<'a>(&'a self, app: &'a AppId, event: NewEvent) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async {
            let source = default_source(Store::registration(self, app).await?)?;
            let appended = Store::append(self, app, source, event, None).await?;
            anyhow::ensure!(matches!(appended, store::Appended::Stored(_)), "{appended:?}");
            Ok(())
        })
    }

    fn consume<'a>(&'a self, app: &'a AppId, wait: Duration) -> BoxFuture<'a, anyhow::Result<usize>> {
        Box::pin(async move {
            let leased = Store::lease(self, app, lease(wait)).await?;
            let acks: Vec<_> = leased.into_iter().map(|delivery| delivery.receipt).collect();
            let count = acks.len();
            if count > 0 {
                let settled =
                    Store::settle(self, app, store::Settlement { acks, ..store::Settlement::default() })
                        .await?;
                anyhow::ensure!(settled.acked == count, "{settled:?}");
            }
            Ok(count)
        })
    }

    fn close(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async { Ok(Store::close(self).await?) })
    }
}

impl Engine for SqliteStore {
    fn register<'a>(&'a self, app: &'a AppId) -> BoxFuture<'a, anyhow::Result<()>> {
        let registration = Registration::watson_work(Secret::new("secret"));
        Box::pin(async { Ok(log::Store::put_registration(self, app, registration).await?) })
    }

    fn append<'a>(&'a self, app: &'a AppId, event: NewEvent) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async {
            let source = default_source(log::Store::registration(self, app).await?)?;
            let appended = log::Store::append(self, app, source, event, None).await?;
            anyhow::ensure!(matches!(appended, log::Appended::Stored(_)), "{appended:?}");
            Ok(())
        })
    }

    fn consume<'a>(&'a self, app: &'a AppId, wait: Duration) -> BoxFuture<'a, anyhow::Result<usize>> {
        Box::pin(async move {
            let name = wwproxy_protocol::ConsumerName::default();
            let leased = log::Store::lease(self, app, &name, log_lease(wait)).await?;
            let acks: Vec<_> = leased.into_iter().map(|delivery| delivery.receipt).collect();
            let count = acks.len();
            if count > 0 {
                let settlement = log::Settlement { acks, ..log::Settlement::default() };
                let settled = log::Store::settle(self, app, &name, settlement).await?;
                anyhow::ensure!(settled.acked == count, "{settled:?}");
            }
            Ok(count)
        })
    }

    fn close(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async { Ok(log::Store::close(self).await?) })
    }
}

/// A read transaction of the event log that stays open.
pub(super) struct Reader {
    _connection: rusqlite::Connection,
}

impl Reader {
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        let connection = rusqlite::Connection::open(folder.join("log.sqlite"))?;
        connection.execute_batch("BEGIN; SELECT count(*) FROM apps;").context("cannot read the log")?;
        Ok(Self { _connection: connection })
    }
}

/// An event whose body has this size, in bytes.
pub(super) fn event(size: usize) -> NewEvent {
    let headers = [
        ("content-type", "application/json"),
        ("user-agent", "wwproxy-bench"),
        ("x-outbound-token", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
        ("host", "proxy.example.com"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let body = format!(r#"{{"data":"{}"}}"#, "x".repeat(size.saturating_sub(11)));
    NewEvent::new(headers, None, body.into())
}
