//! The bounded queue of commands to the writer. A caller waits while it is full (backpressure).

use std::{
    collections::HashMap,
    sync::{Arc, mpsc},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use wwproxy_protocol::{AppId, ConsumerName, ConsumerSettings, EventId, Source, Start};

use crate::store::{
    Appended, DedupeKey, Ephemeral, NewEvent, PutConsumer, Registration, Replayed, Sought, StoreError,
    scheduler::Item,
};

/// Room for appends that wait for the writer, in units of [`UNIT_BYTES`]: 128 MiB.
const MAX_UNITS: u32 = 8192;
/// Room for the appends of one app: no app can take the room of all others.
const MAX_APP_UNITS: u32 = MAX_UNITS / 2;
/// An event takes as many units as it fills, and one more.
const UNIT_BYTES: usize = 16 << 10;
/// Room for all other commands.
const MAX_CONTROLS: usize = 1024;

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

#[derive(Debug)]
pub(super) enum Command {
    Append(Append),
    Control(Control, OwnedSemaphorePermit),
    /// A consumer has changes.
    Flush,
    /// Ends the writer. Without a reply if the store was dropped.
    Close(Option<Reply<()>>),
}

/// An append that waits for its commit.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) app: AppId,
    /// The source that verified the event.
    pub(super) source: Arc<Source>,
    pub(super) event: NewEvent,
    /// The dedupe key (idempotency key). `None` if the sender's retries cannot be recognised.
    pub(super) dedupe: Option<DedupeKey>,
    pub(super) reply: Reply<Appended>,
    size: usize,
    pub(super) room: Room,
}

/// What an append occupies until it is answered.
#[derive(Debug)]
pub(super) struct Room {
    _of_app: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// A change of registrations or consumers: a transaction of its own.
#[derive(Debug)]
pub(super) enum Control {
    Register {
        app: AppId,
        registration: Option<Registration>,
        reply: Reply<()>,
    },
    PutConsumer {
        app: AppId,
        name: ConsumerName,
        settings: ConsumerSettings,
        reply: Reply<PutConsumer>,
    },
    DeleteConsumer {
        app: AppId,
        name: ConsumerName,
        reply: Reply<bool>,
    },
    Seek {
        app: AppId,
        consumer: ConsumerName,
        to: Start,
        reply: Reply<Sought>,
    },
    DeleteEvent {
        app: AppId,
        id: EventId,
        reply: Reply<bool>,
    },
    /// Flushes what consumers did.
    Flush {
        reply: Reply<()>,
    },
    OpenEphemeral {
        app: AppId,
        start: Start,
        reply: Reply<Option<Ephemeral>>,
    },
    Replay {
        app: AppId,
        consumer: ConsumerName,
        id: EventId,
        reply: Reply<Replayed>,
    },
}

impl Item for Append {
    fn app(&self) -> &AppId {
        &self.app
    }

    fn bytes(&self) -> usize {
        self.size
    }

    fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }
}

/// Sends commands to the writer.
#[derive(Debug)]
pub(super) struct Commands {
    sender: mpsc::Sender<Command>,
    appends: Arc<Semaphore>,
    /// The room of each app that has waiting appends.
    apps: Mutex<HashMap<AppId, Arc<Semaphore>>>,
    controls: Arc<Semaphore>,
}

impl Commands {
    pub(super) fn new(sender: mpsc::Sender<Command>) -> Self {
        Self {
            sender,
            appends: Arc::new(Semaphore::new(MAX_UNITS as usize)),
            apps: Mutex::default(),
            controls: Arc::new(Semaphore::new(MAX_CONTROLS)),
        }
    }

    /// Queues an append and waits for its outcome.
    pub(super) async fn append(
        &self,
        app: &AppId,
        source: Arc<Source>,
        event: NewEvent,
        dedupe: Option<DedupeKey>,
    ) -> Result<Appended, StoreError> {
        let size = event.size();
        let units = u32::try_from(1 + size / UNIT_BYTES).unwrap_or(u32::MAX).min(MAX_APP_UNITS);
        // The app's room first: a caller that waits for it takes no room of other apps.
        let of_app = acquire(&self.room_of(app), units).await?;
        let of_all = acquire(&self.appends, units).await?;
        let (reply, outcome) = oneshot::channel();
        let (app, room) = (app.clone(), Room { _of_app: of_app, _of_all: of_all });
        let append = Append { app, source, event, dedupe, reply, size, room };
        self.send(Command::Append(append))?;
        outcome.await.map_err(|_| StoreError::Closed)?
    }

    /// Queues another command and waits for its outcome.
    pub(super) async fn control<T>(
        &self,
        control: impl FnOnce(Reply<T>) -> Control,
    ) -> Result<T, StoreError> {
        let room = acquire(&self.controls, 1).await?;
        let (reply, outcome) = oneshot::channel();
        self.send(Command::Control(control(reply), room))?;
        outcome.await.map_err(|_| StoreError::Closed)?
    }

    /// Ends the writer, and waits for it.
    pub(super) async fn close(&self) -> Result<(), StoreError> {
        let (reply, outcome) = oneshot::channel();
        self.send(Command::Close(Some(reply)))?;
        outcome.await.map_err(|_| StoreError::Closed)?
    }

    /// Ends the writer without waiting for it.
    pub(super) fn stop(&self) {
        // It may have ended before.
        let _ = self.send(Command::Close(None));
    }

    fn send(&self, command: Command) -> Result<(), StoreError> {
        self.sender.send(command).map_err(|_| StoreError::Closed)
    }

    fn room_of(&self, app: &AppId) -> Arc<Semaphore> {
        let mut apps = self.apps.lock();
        if let Some(room) = apps.get(app) {
            return Arc::clone(room);
        }
        if apps.len() == apps.capacity() {
            // Room that no append holds or waits for is referenced by the table only.
            apps.retain(|_, room| Arc::strong_count(room) > 1);
        }
        let room = Arc::new(Semaphore::new(MAX_APP_UNITS as usize));
        Arc::clone(apps.entry(app.clone()).or_insert(room))
    }
}

async fn acquire(room: &Arc<Semaphore>, units: u32) -> Result<OwnedSemaphorePermit, StoreError> {
    Arc::clone(room).acquire_many_owned(units).await.map_err(|_| StoreError::Closed)
}

/// Answers a caller. A caller that no longer waits is ignored.
pub(super) fn answer<T>(reply: Reply<T>, outcome: Result<T, StoreError>) {
    let _ = reply.send(outcome);
}
