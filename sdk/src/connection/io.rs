//! Reads and flushes the websocket concurrently, and converts its errors.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, error::CapacityError},
};

use crate::{Error, ErrorKind};

/// What the socket has done.
pub(super) enum Io {
    Flushed(Result<(), tungstenite::Error>),
    Received(Option<Result<Message, tungstenite::Error>>),
}

/// Waits for a flush or a message, whichever comes first.
pub(super) fn poll_io<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    cx: &mut Context<'_>,
    reading: bool,
    flushing: bool,
) -> Poll<Io> {
    if flushing && let Poll::Ready(result) = Pin::new(&mut *socket).poll_flush(cx) {
        return Poll::Ready(Io::Flushed(result));
    }
    if reading && let Poll::Ready(message) = Pin::new(socket).poll_next(cx) {
        return Poll::Ready(Io::Received(message));
    }
    Poll::Pending
}

/// Converts an error of the websocket.
pub(super) fn disconnected(error: tungstenite::Error) -> Error {
    let disconnected = match &error {
        // Permanent: the event would be redelivered over every new connection.
        tungstenite::Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            let message = format!(
                "an event exceeds the largest message ({size} bytes); raise max_message_bytes ({max_size})"
            );
            Error::new(ErrorKind::Protocol, message)
        }
        _ => Error::new(ErrorKind::Disconnected, "the connection broke"),
    };
    disconnected.with_source(error)
}
