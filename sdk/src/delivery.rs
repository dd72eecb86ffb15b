//! One event in the hands of the app.

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use wwproxy_protocol::{EventId, message::EventMessage};

use crate::{Error, ErrorKind};

/// An event that came over a [`Subscription`](crate::Subscription).
///
/// Acknowledge it once it is done with: the server then deletes it. One that is dropped instead, or whose connection is
/// lost before, comes again once its lease has ended (60 s where the server does not say otherwise). While an event is
/// held, no second copy of it comes over the same connection.
///
/// ```no_run
/// use std::time::Duration;
/// use wwproxy_sdk::{Delivery, Error};
///
/// #[derive(serde::Deserialize)]
/// struct Order { number: u64 }
///
/// async fn handle(event: Delivery) -> Result<(), Error> {
///     match event.json::<Order>() {
///         Ok(order) => println!("order {}, attempt {:?}", order.number, event.attempt()),
///         Err(_) => return event.nack(Duration::from_secs(60)).await,
///     }
///     event.ack().await
/// }
/// ```
pub struct Delivery {
    event: EventMessage,
    held: Held,
    orders: mpsc::Sender<Order>,
}

/// What the app decided about an event. `written` is answered once the connection has sent and flushed it.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) id: EventId,
    pub(crate) verdict: Verdict,
    pub(crate) written: oneshot::Sender<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ack,
    Nack(Duration),
}

impl Delivery {
    /// The event itself, without what settles it.
    #[must_use]
    pub fn event(&self) -> &EventMessage {
        &self.event
    }

    /// The event's name: unique, ascending in order of arrival within an app.
    #[must_use]
    pub fn id(&self) -> &EventId {
        &self.event.id
    }

    /// The body, byte for byte as its sender signed it.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.event.body
    }

    /// The body, parsed.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: the body is no JSON, or nested deeper than `serde_json` goes (128).
    pub fn value(&self) -> Result<serde_json::Value, Error> {
        self.json()
    }

    /// The body as one's own type.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: the body is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.event.json().map_err(|error| {
            Error::new(
                ErrorKind::Protocol,
                format!("the body of event {} is not of the expected type", self.id()),
            )
            .because(error)
        })
    }

    /// How often the event has been handed out, this time included: 1 the first time. `None` from a legacy server.
    #[must_use]
    pub fn attempt(&self) -> Option<u32> {
        self.event.details.attempt
    }

    /// When the server took the event. `None` from a legacy server.
    #[must_use]
    pub fn received_at(&self) -> Option<SystemTime> {
        self.event.details.received_at
    }

    /// The sender's headers as `(name, value)`, names in lower case. `None` from a legacy server.
    #[must_use]
    pub fn headers(&self) -> Option<&[(String, String)]> {
        // A server that tells of headers tells of attempts too.
        self.event.details.attempt.map(|_| self.event.details.headers.as_slice())
    }

    /// The query string of the sender's request, without the `?`. `None` where there was none, and from a legacy server.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.event.details.query.as_deref()
    }

    /// Accepts the event: the server deletes it. Returns when that has been written and flushed to the connection.
    /// Acks that wait at the same moment go out together, so awaiting many at once is cheap.
    ///
    /// # Errors
    /// [`ErrorKind::Disconnected`]: the connection that the event came over is gone, or its subscription. The event
    /// will come again.
    pub async fn ack(&self) -> Result<(), Error> {
        self.decide(Verdict::Ack).await
    }

    /// Hands the event back: it goes out again, to whoever listens, not before `delay`. A legacy server cannot be told; there
    /// the event comes again when the server thinks so.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn nack(&self, delay: Duration) -> Result<(), Error> {
        // The next copy may be here before this one is dropped, and it shall count.
        self.held.release();
        self.decide(Verdict::Nack(delay)).await
    }

    async fn decide(&self, verdict: Verdict) -> Result<(), Error> {
        let gone = || {
            let message = format!(
                "the connection that event {} came over is gone; the event will come again",
                self.id()
            );
            Error::new(ErrorKind::Disconnected, message)
        };
        let (written, done) = oneshot::channel();
        let order = Order { id: self.id().clone(), verdict, written };
        self.orders.send(order).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())
    }

    /// Whether the connection that it came over is gone: it cannot be acknowledged any more, and comes again.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.orders.is_closed()
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("id", self.id())
            .field("attempt", &self.event.details.attempt)
            .field("received_at", &self.event.details.received_at)
            .field("body_bytes", &self.event.body.len())
            .finish_non_exhaustive()
    }
}

/// Makes the deliveries of one connection, never two of one event at a time: a server that repeats what is
/// still unacked, after a lease's end or because it is the original proxy, makes nobody do the work twice.
#[derive(Debug)]
pub(crate) struct Deliverer {
    ids: Arc<Mutex<HashSet<EventId>>>,
    orders: mpsc::Sender<Order>,
}

impl Deliverer {
    pub(crate) fn new(orders: mpsc::Sender<Order>) -> Self {
        Self { ids: Arc::default(), orders }
    }

    /// A delivery, or `None` where the app holds one of this event.
    pub(crate) fn deliver(&self, event: EventMessage) -> Option<Delivery> {
        let id = event.id.clone();
        let fresh = self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        let held = || Held { id, ids: self.ids.clone(), released: false.into() };
        fresh.then(|| Delivery { event, held: held(), orders: self.orders.clone() })
    }
}

/// The place of an event among those that the app holds, until it is dropped or released.
struct Held {
    id: EventId,
    ids: Arc<Mutex<HashSet<EventId>>>,
    released: AtomicBool,
}

impl Held {
    fn release(&self) {
        if !self.released.swap(true, Ordering::AcqRel) {
            self.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use wwproxy_protocol::message::EventDetails;

    use super::*;

    fn event(id: &str) -> EventMessage {
        EventMessage {
            id: id.parse().unwrap(),
            body: Bytes::from_static(b"{\"n\":1}"),
            details: EventDetails::default(),
        }
    }

    #[tokio::test]
    async fn one_copy_at_a_time() {
        let (orders, mut connection) = mpsc::channel(4);
        let deliverer = Deliverer::new(orders);
        let first = deliverer.deliver(event("a")).unwrap();
        assert!(deliverer.deliver(event("a")).is_none());
        assert!(deliverer.deliver(event("b")).is_some());
        drop(first);
        let second = deliverer.deliver(event("a")).unwrap();
        let nack = async {
            second.nack(Duration::ZERO).await.unwrap();
        };
        let answer = async { connection.recv().await.unwrap().written.send(()).unwrap() };
        tokio::join!(nack, answer);
        let third = deliverer.deliver(event("a")).unwrap();
        drop(second);
        assert!(deliverer.deliver(event("a")).is_none(), "the third copy is still held");
        drop(third);
        assert!(deliverer.deliver(event("a")).is_some());
    }

    #[tokio::test]
    async fn an_ack_without_a_connection_fails() {
        let (orders, mut connection) = mpsc::channel(4);
        let delivery = Deliverer::new(orders).deliver(event("a")).unwrap();
        let (acked, ()) = tokio::join!(delivery.ack(), async { drop(connection.recv().await) });
        assert_eq!(acked.unwrap_err().kind(), ErrorKind::Disconnected);
        drop(connection);
        assert!(delivery.is_stale());
        assert_eq!(delivery.ack().await.unwrap_err().kind(), ErrorKind::Disconnected);
    }

    #[test]
    fn a_legacy_event_tells_nothing_but_its_body() {
        let (orders, _connection) = mpsc::channel(4);
        let delivery = Deliverer::new(orders).deliver(event("a")).unwrap();
        assert_eq!(
            (delivery.attempt(), delivery.received_at(), delivery.headers(), delivery.query()),
            (None, None, None, None)
        );
        assert_eq!(delivery.value().unwrap(), serde_json::json!({"n": 1}));
        assert_eq!(delivery.json::<Vec<u8>>().unwrap_err().kind(), ErrorKind::Protocol);
    }
}
