//! The bounded queue of commands to the writer. A caller waits while it is full (backpressure); the proxy bounds that
//! wait and answers 503.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, mpsc},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use wwproxy_protocol::{AppId, Source};

use crate::store::{Appended, DedupeKey, NewEvent, Registration, StoreError, queues::lock, sequence::Seq};

/// How much of events waits for the writer, in pieces of [`PIECE_BYTES`]: 128 MiB. A further one waits for room.
const MAX_WAITING_PIECES: u32 = 8192;
/// How much of it is one app's at most: an app cannot take the room of all others.
const MAX_APP_PIECES: u32 = MAX_WAITING_PIECES / 2;
/// An event takes as many pieces as it fills, and one more.
const PIECE_BYTES: usize = 16 << 10;
/// How many commands without an event wait, such as acknowledgements: they do not wait for events.
const MAX_WAITING_OTHERS: usize = 1024;

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;
pub(super) type Queue = mpsc::Receiver<(Command, Room)>;

#[derive(Debug)]
pub(super) enum Command {
    Append { append: Box<Append>, reply: Reply<Appended> },
    Register(Register),
    Delete { numbers: Vec<Seq> },
    Probe { reply: Reply<()> },
    Close { reply: Reply<()> },
}

/// An event to be appended.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) app: AppId,
    /// The source that verified it.
    pub(super) source: Arc<Source>,
    pub(super) event: NewEvent,
    pub(super) dedupe: Option<DedupeKey>,
}

/// An app's registration is to be this, or none.
#[derive(Debug)]
pub(super) struct Register {
    pub(super) app: AppId,
    pub(super) registration: Option<Arc<Registration>>,
    pub(super) reply: Reply<()>,
}

/// What a command occupies until it is done.
#[derive(Debug)]
pub(super) struct Room {
    _of_all: OwnedSemaphorePermit,
    _of_app: Option<OwnedSemaphorePermit>,
}

#[cfg(test)]
impl Room {
    pub(super) fn none() -> Self {
        let of_all = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("it is free");
        Self { _of_all: of_all, _of_app: None }
    }
}

/// The way to the writer. When the last one is dropped the writer commits what is left and ends.
#[derive(Debug)]
pub(super) struct WriterHandle {
    commands: mpsc::Sender<(Command, Room)>,
    events: Arc<Semaphore>,
    /// The share of each app of which something waits.
    apps: Mutex<HashMap<AppId, Arc<Semaphore>>>,
    others: Arc<Semaphore>,
}

impl WriterHandle {
    pub(super) fn new() -> (Self, Queue) {
        let (commands, queue) = mpsc::channel();
        let events = Arc::new(Semaphore::new(MAX_WAITING_PIECES as usize));
        let others = Arc::new(Semaphore::new(MAX_WAITING_OTHERS));
        (Self { commands, events, apps: Mutex::default(), others }, queue)
    }

    /// Queues an event and waits for the outcome.
    pub(super) async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        let pieces = u32::try_from(1 + append.event.size() / PIECE_BYTES).unwrap_or(u32::MAX);
        let pieces = pieces.min(MAX_APP_PIECES);
        // In this order, so that who waits for its own app takes no room of the others.
        let of_app = acquire(&self.of_app(&append.app), pieces).await?;
        let of_all = acquire(&self.events, pieces).await?;
        let place = self.place_in(of_all, Some(of_app));
        ask(place, |reply| Command::Append { append: Box::new(append), reply }).await
    }

    /// Queues a registration and waits for what became of it. It has all of its app's room: whoever registers over and
    /// over keeps nobody else waiting.
    pub(super) async fn register(
        &self,
        app: &AppId,
        registration: Option<Registration>,
    ) -> Result<(), StoreError> {
        let of_app = acquire(&self.of_app(app), MAX_APP_PIECES).await?;
        let place = self.place_in(acquire(&self.others, 1).await?, Some(of_app));
        let registration = registration.map(Arc::new);
        ask(place, |reply| Command::Register(Register { app: app.clone(), registration, reply })).await
    }

    /// Queues a command without an event and waits for what became of it.
    pub(super) async fn ask(&self, command: impl FnOnce(Reply<()>) -> Command) -> Result<(), StoreError> {
        ask(self.place().await?, command).await
    }

    /// Waits for room for a command without an event.
    pub(super) async fn place(&self) -> Result<Place<'_>, StoreError> {
        Ok(self.place_in(acquire(&self.others, 1).await?, None))
    }

    fn place_in(&self, of_all: OwnedSemaphorePermit, of_app: Option<OwnedSemaphorePermit>) -> Place<'_> {
        Place { commands: &self.commands, room: Room { _of_all: of_all, _of_app: of_app } }
    }

    fn of_app(&self, app: &AppId) -> Arc<Semaphore> {
        let mut apps = lock(&self.apps);
        if let Some(room) = apps.get(app) {
            return Arc::clone(room);
        }
        if apps.len() == apps.capacity() {
            // Where nobody waits and nothing is occupied, nobody else has it.
            apps.retain(|_, room| Arc::strong_count(room) > 1);
        }
        let room = Arc::new(Semaphore::new(MAX_APP_PIECES as usize));
        Arc::clone(apps.entry(app.clone()).or_insert(room))
    }
}

async fn acquire(room: &Arc<Semaphore>, pieces: u32) -> Result<OwnedSemaphorePermit, StoreError> {
    Arc::clone(room).acquire_many_owned(pieces).await.map_err(|_| StoreError::Closed)
}

async fn ask<T>(place: Place<'_>, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
    let (reply, answer) = oneshot::channel();
    place.send(command(reply))?;
    answer.await.map_err(|_| StoreError::Closed)?
}

/// Room for one command.
#[derive(Debug)]
pub(super) struct Place<'a> {
    commands: &'a mpsc::Sender<(Command, Room)>,
    room: Room,
}

impl Place<'_> {
    pub(super) fn send(self, command: Command) -> Result<(), StoreError> {
        self.commands.send((command, self.room)).map_err(|_| StoreError::Closed)
    }
}

/// Sends the outcome of a command to its caller. If the caller is gone, the outcome is dropped.
pub(super) fn answer<T>(reply: Reply<T>, outcome: Result<T, StoreError>) {
    let _ = reply.send(outcome);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{FutureExt, future::join_all};
    use wwproxy_protocol::Secret;

    use super::*;

    #[tokio::test]
    async fn an_app_cannot_take_the_room_of_others() {
        let (writer, queue) = WriterHandle::new();
        let append = |app: &str, size: usize| {
            // Half of it is a header: what a sender sends is what counts.
            let headers = vec![("x".to_owned(), "x".repeat(size / 2))];
            let event = NewEvent::new(headers, None, Bytes::from(vec![0; size / 2]));
            let source = Arc::new(Source::watson_work(Secret::new("s")));
            writer.append(Append { app: app.parse().unwrap(), source, event, dedupe: None })
        };
        let flood = join_all((0..100).map(|_| append("flood", 8 << 20)));
        tokio::pin!(flood);
        assert!(flood.as_mut().now_or_never().is_none());
        let waiting = queue.try_iter().collect::<Vec<_>>();
        assert_eq!(waiting.len(), 7, "half of the room");
        let other = append("other", 8 << 20);
        tokio::pin!(other);
        assert!(other.as_mut().now_or_never().is_none());
        assert!(
            matches!(queue.try_recv().unwrap().0, Command::Append { append, .. } if append.app.as_str() == "other")
        );
        assert!(writer.place().now_or_never().is_some(), "and neither do acknowledgements wait");
        drop(waiting);
        assert!(flood.now_or_never().is_none());
        assert_eq!(queue.try_iter().count(), 7, "they have the room of those before");
    }
}
