//! The messages of a client: acks, rejections, releases and lease extensions.

use std::{future::pending, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until},
};
use tokio_tungstenite::tungstenite::Message;
use wwproxy_protocol::{ClientMessage, EventId, message::UndecodableEvent};

use super::{Connection, MAX_ACK_BATCH, MessageHandler};
use crate::{
    Error, ErrorKind, State,
    delivery::{Disposition, SettleCommand},
};

/// The redelivery delay of an event that cannot be decoded: another client of the app may be of a later version.
pub(super) const UNDECODABLE_DELAY: Duration = Duration::from_secs(60);

impl<S: AsyncRead + AsyncWrite + Unpin, H: MessageHandler> Connection<'_, S, H> {
    /// Writes acks, rejections, releases and extensions. The commands are completed by the next flush.
    pub(super) fn write_settlements(&mut self, commands: &mut Vec<SettleCommand>) -> Result<(), Error> {
        let acked: Vec<EventId> = commands
            .iter()
            .filter(|command| command.disposition == Disposition::Ack)
            .map(|command| command.id.clone())
            .collect();
        let batch_size = if self.v2 { MAX_ACK_BATCH } else { 1 };
        for ids in acked.chunks(batch_size) {
            self.write(Message::text(ClientMessage::ack(ids)))?;
        }
        for command in commands.drain(..) {
            let message = match &command.disposition {
                Disposition::Ack => None,
                Disposition::Release { delay, reason } => {
                    Some(ClientMessage::nack(&command.id, *delay, reason.as_deref()))
                }
                Disposition::Reject { reason } => Some(ClientMessage::reject(&command.id, reason.as_deref())),
                Disposition::Extend => Some(ClientMessage::progress(&command.id)),
            };
            if self.v2
                && let Some(message) = message
            {
                self.write(Message::text(message))?;
            }
            self.unflushed.push(command);
        }
        self.flushing.get_or_insert_with(Instant::now);
        Ok(())
    }

    pub(super) fn write_extensions(&mut self) -> Result<(), Error> {
        if let Some((at, interval)) = &mut self.next_extension {
            *at = Instant::now() + *interval;
        }
        for id in self.handler.in_flight() {
            self.write(Message::text(ClientMessage::progress(&id)))?;
        }
        Ok(())
    }

    /// Leaves an event that cannot be decoded on the server, so that it does not hold up the events after it.
    pub(super) fn leave_undecodable(&mut self, event: &UndecodableEvent) -> Result<(), Error> {
        let UndecodableEvent { id, reason } = event;
        tracing::warn!(%id, reason, "an event cannot be decoded and will be redelivered");
        let message = format!("event {id} cannot be decoded and stays on the server: {reason}");
        (self.on_state)(&State::Undecodable {
            id: id.clone(),
            error: Error::new(ErrorKind::Protocol, message),
        });
        if self.v2 {
            self.write(Message::text(ClientMessage::nack(id, UNDECODABLE_DELAY, None)))
        } else {
            Ok(())
        }
    }
}

pub(super) async fn until(timer: Option<(Instant, Duration)>) {
    match timer {
        Some((at, _)) => sleep_until(at).await,
        None => pending().await,
    }
}
