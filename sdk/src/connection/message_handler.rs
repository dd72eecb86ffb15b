//! What a stream makes of the messages of a connection.

use wwproxy_protocol::{
    EventId,
    message::{EventMessage, Hello},
};

use crate::Error;

/// Converts the messages of one connection to the items of a stream. A transient error ends the connection; any other error also
/// ends the stream.
pub(crate) trait MessageHandler: Send {
    type Item: Send;

    /// Called after the handshake. `v2`: the server will send a hello.
    fn on_open(&mut self, v2: bool) -> Result<(), Error>;

    fn on_hello(&mut self, hello: &Hello) -> Result<Option<Self::Item>, Error>;

    fn on_event(&mut self, event: EventMessage) -> Result<Option<Self::Item>, Error>;

    /// The events in flight, whose leases may be extended.
    fn in_flight(&self) -> Vec<EventId> {
        Vec::new()
    }

    /// Called when the message that acknowledges or rejects this event was flushed.
    fn on_settled(&mut self, _id: &EventId) {}

    /// Called when the server has skipped `missed` events.
    fn on_gap(&mut self, missed: u64) -> Option<Self::Item>;
}

/// Called with whether the server speaks `wwproxy.v2`, and the number of events that retention has removed.
pub(crate) type OnReady<'a> = &'a (dyn Fn(bool, u64) + Sync);
