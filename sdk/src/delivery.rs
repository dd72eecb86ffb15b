//! An event that was delivered to the app and can be settled: acknowledged, or returned for redelivery.

use std::{
    borrow::Cow,
    collections::HashSet,
    error::Error as StdError,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use wwproxy_protocol::{EventId, SourceName, Verification, message::EventMessage};

use crate::{Error, ErrorKind};

/// An event delivered by a [`Subscription`](crate::Subscription), to be settled by [`ack`](Self::ack) or [`nack`](Self::nack).
///
/// Acknowledge the event after it is handled: the server then deletes it. If it is dropped, or its connection is lost
/// before that, the event is redelivered after its lease has expired (60 s by default on the server). While a delivery exists,
/// no duplicate of its event is delivered over the same connection.
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
    in_flight: InFlight,
    commands: mpsc::Sender<SettleCommand>,
}

/// A request to the connection to settle an event.
#[derive(Debug)]
pub(crate) struct SettleCommand {
    pub(crate) id: EventId,
    pub(crate) disposition: Disposition,
    /// Signalled after the message is flushed.
    pub(crate) flushed: oneshot::Sender<()>,
}

/// How an event is settled (AMQP: disposition).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// The server deletes the event.
    Ack,
    /// The server redelivers the event after this delay.
    Nack(Duration),
}

impl Delivery {
    /// The event.
    #[must_use]
    pub fn event(&self) -> &EventMessage {
        &self.event
    }

    /// The event's id: unique, ascending in order of arrival within an app.
    #[must_use]
    pub fn id(&self) -> &EventId {
        &self.event.id
    }

    /// The body, byte for byte as its sender signed it. The same as [`bytes`](Self::bytes).
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.event.body
    }

    /// The body, byte for byte as its sender signed it.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.event.body
    }

    /// The `Content-Type` of the sender's request. `None` if it had none, and from a legacy server.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.event.content_type()
    }

    /// The body as a JSON value.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: the body is not JSON, or nested deeper than the limit of `serde_json` (128).
    pub fn value(&self) -> Result<serde_json::Value, Error> {
        self.json()
    }

    /// Deserializes a JSON body. A byte order mark is ignored.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: the body does not match the type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.event.json().map_err(|error| self.unreadable("of the expected type", error))
    }

    /// The body as text.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: the body is not UTF-8.
    pub fn text(&self) -> Result<&str, Error> {
        self.event.text().map_err(|error| self.unreadable("UTF-8 text", error))
    }

    /// The names and values of a form: see [`EventMessage::form`].
    pub fn form(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        self.event.form()
    }

    fn unreadable(&self, expected: &str, error: impl StdError + Send + Sync + 'static) -> Error {
        let message = format!("the body of event {} is not {expected}", self.id());
        Error::new(ErrorKind::Protocol, message).with_source(error)
    }

    /// The sender's type of the event, as in `issues.opened`: see [`EventMessage::event_type`].
    #[must_use]
    pub fn event_type(&self) -> Option<String> {
        self.event.event_type()
    }

    /// The source that received the event. `default` from a server of version 0.1.
    #[must_use]
    pub fn source(&self) -> &SourceName {
        self.event.source()
    }

    /// The sender's id of the delivery.
    #[must_use]
    pub fn delivery_id(&self) -> Option<&str> {
        self.event.delivery_id()
    }

    /// The path of the sender's request after the source's hook: see [`EventMessage::tail`].
    #[must_use]
    pub fn tail(&self) -> Option<&str> {
        self.event.tail()
    }

    /// How the event was verified. `None` if it was not, and from a server of version 0.1, which verifies every event.
    #[must_use]
    pub fn verification(&self) -> Option<&Verification> {
        self.event.verification()
    }

    /// The number of deliveries of the event, this one included: 1 the first time. `None` from a legacy server.
    #[must_use]
    pub fn attempt(&self) -> Option<u32> {
        self.event.details.attempt
    }

    /// When the server received the event. `None` from a legacy server.
    #[must_use]
    pub fn received_at(&self) -> Option<SystemTime> {
        self.event.details.received_at
    }

    /// The sender's headers as `(name, value)`, names in lower case. `None` from a legacy server.
    #[must_use]
    pub fn headers(&self) -> Option<&[(String, String)]> {
        // A server that sends headers also sends attempts.
        self.event.details.attempt.map(|_| self.event.details.headers.as_slice())
    }

    /// The query string of the sender's request, without the `?`. `None` if it had none, and from a legacy server.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.event.details.query.as_deref()
    }

    /// Acknowledges the event: the server deletes it. Returns after the acknowledgement is flushed to the connection.
    /// Concurrent acknowledgements are batched into one message, so awaiting many at once is cheap.
    ///
    /// # Errors
    /// [`ErrorKind::Disconnected`]: the connection that delivered the event, or its subscription, is closed. The event
    /// will be redelivered.
    pub async fn ack(&self) -> Result<(), Error> {
        self.settle(Disposition::Ack).await
    }

    /// Returns the event to the server, which redelivers it to any client of the app after `delay`. Not sent to a legacy server,
    /// which redelivers the event after its own timeout.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn nack(&self, delay: Duration) -> Result<(), Error> {
        // The redelivery may arrive before this delivery is dropped, and must not count as a duplicate.
        self.in_flight.remove();
        self.settle(Disposition::Nack(delay)).await
    }

    async fn settle(&self, disposition: Disposition) -> Result<(), Error> {
        let disconnected = || {
            let message = format!(
                "the connection that delivered event {} is closed; the event will be redelivered",
                self.id()
            );
            Error::new(ErrorKind::Disconnected, message)
        };
        let (flushed, done) = oneshot::channel();
        let command = SettleCommand { id: self.id().clone(), disposition, flushed };
        self.commands.send(command).await.map_err(|_| disconnected())?;
        done.await.map_err(|_| disconnected())
    }

    /// Whether the connection that delivered the event is closed. It can then no longer be settled, and the event is redelivered.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.commands.is_closed()
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

/// Creates the deliveries of one connection and drops duplicates of events in flight. A server sends duplicates when a lease
/// expires; the original proxy repeats every unacknowledged event.
#[derive(Debug)]
pub(crate) struct Deliverer {
    in_flight: Arc<Mutex<HashSet<EventId>>>,
    commands: mpsc::Sender<SettleCommand>,
}

impl Deliverer {
    pub(crate) fn new(commands: mpsc::Sender<SettleCommand>) -> Self {
        Self { in_flight: Arc::default(), commands }
    }

    /// Creates a delivery, or returns `None` if the event is in flight.
    pub(crate) fn deliver(&self, event: EventMessage) -> Option<Delivery> {
        let id = event.id.clone();
        if !self.in_flight.lock().insert(id.clone()) {
            return None;
        }
        let in_flight = InFlight { id, all: self.in_flight.clone(), removed: false.into() };
        Some(Delivery { event, in_flight, commands: self.commands.clone() })
    }
}

/// Keeps an event in the set of events in flight until it is removed or dropped.
struct InFlight {
    id: EventId,
    all: Arc<Mutex<HashSet<EventId>>>,
    removed: AtomicBool,
}

impl InFlight {
    fn remove(&self) {
        if !self.removed.swap(true, Ordering::AcqRel) {
            self.all.lock().remove(&self.id);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.remove();
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
    async fn duplicates_of_an_event_in_flight_are_dropped() {
        let (commands, mut connection) = mpsc::channel(4);
        let deliverer = Deliverer::new(commands);
        let first = deliverer.deliver(event("a")).unwrap();
        assert!(deliverer.deliver(event("a")).is_none());
        assert!(deliverer.deliver(event("b")).is_some());
        drop(first);
        let second = deliverer.deliver(event("a")).unwrap();
        let nack = async {
            second.nack(Duration::ZERO).await.unwrap();
        };
        let flush = async { connection.recv().await.unwrap().flushed.send(()).unwrap() };
        tokio::join!(nack, flush);
        let third = deliverer.deliver(event("a")).unwrap();
        drop(second);
        assert!(deliverer.deliver(event("a")).is_none(), "the third delivery is in flight");
        drop(third);
        assert!(deliverer.deliver(event("a")).is_some());
    }

    #[tokio::test]
    async fn an_ack_after_the_connection_is_lost_fails() {
        let (commands, mut connection) = mpsc::channel(4);
        let delivery = Deliverer::new(commands).deliver(event("a")).unwrap();
        let (acked, ()) = tokio::join!(delivery.ack(), async { drop(connection.recv().await) });
        assert_eq!(acked.unwrap_err().kind(), ErrorKind::Disconnected);
        drop(connection);
        assert!(delivery.is_stale());
        assert_eq!(delivery.ack().await.unwrap_err().kind(), ErrorKind::Disconnected);
    }

    #[test]
    fn a_legacy_event_has_only_id_and_body() {
        let (commands, _connection) = mpsc::channel(4);
        let delivery = Deliverer::new(commands).deliver(event("a")).unwrap();
        assert_eq!(
            (delivery.attempt(), delivery.received_at(), delivery.headers(), delivery.query()),
            (None, None, None, None)
        );
        assert_eq!(delivery.value().unwrap(), serde_json::json!({"n": 1}));
        assert_eq!(delivery.json::<Vec<u8>>().unwrap_err().kind(), ErrorKind::Protocol);
        assert_eq!((delivery.text().unwrap(), delivery.content_type()), ("{\"n\":1}", None));
        let not_text = EventMessage { body: Bytes::from_static(b"\xff"), ..event("b") };
        let (commands, _connection) = mpsc::channel(4);
        let error = Deliverer::new(commands).deliver(not_text).unwrap().text().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert_eq!(error.to_string(), "the body of event b is not UTF-8 text");
    }
}
