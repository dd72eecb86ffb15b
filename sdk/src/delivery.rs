//! An event that was delivered to the app and can be settled: acknowledged, rejected, or released for redelivery.

mod deliverer;

use std::{
    borrow::Cow,
    error::Error as StdError,
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use wwproxy_protocol::{EventId, SourceName, Verification, message::EventMessage};

pub(crate) use self::deliverer::Deliverer;
use self::deliverer::InFlight;
use crate::{Error, ErrorKind};

/// An event delivered by a [`Subscription`](crate::Subscription), to be settled by [`ack`](Self::ack), [`release`](Self::release) or
/// [`reject`](Self::reject).
///
/// Acknowledge the event after it is handled: the server then does not deliver it to this consumer again. If it is dropped, or its
/// connection is lost before that, the event is redelivered after its lease has expired (60 s by default on the server);
/// [`extend`](Self::extend) it if handling takes longer. While a delivery exists, no duplicate of it is delivered over the same
/// connection.
///
/// If the future of a method that settles is dropped before it completes, the event may be settled or not.
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

/// An event and its replay. One that was replayed is another delivery than the one before, and must be handled again.
pub(crate) type DeliveryKey = (EventId, u32);

/// A request to the connection to settle an event, or to extend its lease.
#[derive(Debug)]
pub(crate) struct SettleCommand {
    pub(crate) id: EventId,
    pub(crate) disposition: Disposition,
    /// Signalled after the message is flushed.
    pub(crate) flushed: oneshot::Sender<()>,
}

/// How an event is settled (AMQP: disposition).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// The event is processed.
    Ack,
    /// The server redelivers the event after this delay.
    Release { delay: Duration, reason: Option<String> },
    /// The event is dead.
    Reject { reason: Option<String> },
    /// The event is not settled yet, and its lease runs again.
    Extend,
}

impl Disposition {
    /// Whether the consumer will not get the event again.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Ack | Self::Reject { .. })
    }
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

    /// How often the event was replayed to the consumer: 0 unless a person asked for it again. The id and this number are the
    /// idempotency key of a handler, since a replayed event is to be handled again.
    #[must_use]
    pub fn replay_count(&self) -> u32 {
        self.event.details.replay
    }

    pub(crate) fn key(&self) -> DeliveryKey {
        key(&self.event)
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

    /// Acknowledges the event: the consumer does not get it again. Returns after the acknowledgement is flushed to the connection.
    /// Concurrent acknowledgements are batched into one message, so awaiting many at once is cheap.
    ///
    /// # Errors
    /// [`ErrorKind::Disconnected`]: the connection that delivered the event, or its subscription, is closed. The event
    /// will be redelivered.
    pub async fn ack(&self) -> Result<(), Error> {
        self.settle(Disposition::Ack).await
    }

    /// Releases the event: the server redelivers it to any client of the consumer after `delay`. The reason, why it could not be
    /// processed, is cut to 1024 bytes and kept in the history; a server of version 0.1 ignores it. Not sent to a legacy server, which
    /// redelivers the event after its own timeout.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn release(&self, delay: Duration, reason: Option<&str>) -> Result<(), Error> {
        // The redelivery may arrive before this delivery is dropped, and must not count as a duplicate.
        self.in_flight.remove();
        self.settle(Disposition::Release { delay, reason: reason.map(Into::into) }).await
    }

    /// [Releases](Self::release) the event without a reason (negative acknowledgement).
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn nack(&self, delay: Duration) -> Result<(), Error> {
        self.release(delay, None).await
    }

    /// Rejects the event, because no client will be able to process it: it is dead for this consumer. It is not redelivered, and is
    /// kept with its reason, cut to 1024 bytes, until the server's retention removes it, so that it can be looked at and replayed. A
    /// server of version 0.1 and a legacy server redeliver it after its lease instead.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn reject(&self, reason: &str) -> Result<(), Error> {
        let reason = Some(reason).filter(|reason| !reason.is_empty()).map(Into::into);
        self.settle(Disposition::Reject { reason }).await
    }

    /// Extends the lease: it runs its time again from now on, up to 12 h after the delivery, while handling goes on. A server of
    /// version 0.1 and a legacy server ignore it.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn extend(&self) -> Result<(), Error> {
        self.settle(Disposition::Extend).await
    }

    pub(crate) async fn settle(&self, disposition: Disposition) -> Result<(), Error> {
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

fn key(event: &EventMessage) -> DeliveryKey {
    (event.id.clone(), event.details.replay)
}

#[cfg(test)]
mod tests;
