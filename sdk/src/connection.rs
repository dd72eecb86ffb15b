//! One websocket connection, from its first frame to its end.

use std::{future::poll_fn, mem, pin::Pin, time::Duration};

use futures_util::{Sink, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message},
};
use wwproxy_protocol::ServerMessage;

pub(crate) use self::{
    handshake::{Opened, connect},
    message_handler::{MessageHandler, OnReady},
};
use self::{
    heartbeat::Heartbeat,
    io::{Io, disconnected, poll_io},
    settle::until,
};
use crate::{Error, ErrorKind, State, delivery::SettleCommand};

mod handshake;
mod heartbeat;
mod io;
mod message_handler;
mod settle;

/// The timeout of the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The most ids of one ack message, which is then about 10 KiB.
const MAX_ACK_BATCH: usize = 256;
/// Reading pauses while more bytes of pongs than this are unflushed. Otherwise a server that sends pings and reads nothing would
/// fill the memory with pongs.
const MAX_PONG_BYTES: usize = 16 * 1024;
/// The header and mask of a frame, in bytes.
const FRAME_OVERHEAD: usize = 6;
/// The minimum interval between extensions of the leases of events in flight.
const MIN_EXTENSION_INTERVAL: Duration = Duration::from_secs(1);
/// A connection that lasted this long was stable, even if it delivered no event.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum ConnectionEnd {
    /// The consumer has dropped the stream.
    Unsubscribed,
    /// The connection broke, or the server closed it.
    Lost {
        error: Error,
        /// Whether it delivered events or lasted for a while, so that the reconnect backoff is reset.
        stable: bool,
    },
}

/// One websocket connection: delivers items to a stream, and settles its events.
pub(crate) struct Connection<'a, S, H: MessageHandler> {
    socket: WebSocketStream<S>,
    /// Whether the server speaks `wwproxy.v2`, with nacks and many ids in one ack.
    v2: bool,
    items: &'a mpsc::Sender<Result<H::Item, Error>>,
    handler: H,
    /// Called once, when the server is ready, with `v2` and the number of missed events.
    on_ready: Option<OnReady<'a>>,
    on_state: &'a (dyn Fn(&State) + Send + Sync),
    commands: mpsc::Receiver<SettleCommand>,
    /// Keeps the channel open if the handler, like that of a tap, sends no commands.
    _commands: mpsc::Sender<SettleCommand>,
    /// The next item, which waits for a place in the channel. Nothing is read meanwhile, which is the backpressure to the server.
    pending_item: Option<H::Item>,
    /// The commands whose messages are written and not flushed.
    unflushed: Vec<SettleCommand>,
    /// When the oldest output that is not flushed was written.
    flushing: Option<Instant>,
    /// The bytes of pongs that are written and not flushed.
    pong_bytes: usize,
    heartbeat: Heartbeat,
    has_delivered: bool,
    /// Whether the leases of events in flight are extended.
    extends_leases: bool,
    /// When they are extended next, and how often.
    next_extension: Option<(Instant, Duration)>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin, H: MessageHandler> Connection<'a, S, H> {
    pub(crate) fn new(
        socket: WebSocketStream<S>,
        v2: bool,
        idle_timeout: Duration,
        items: &'a mpsc::Sender<Result<H::Item, Error>>,
        handler: impl FnOnce(mpsc::Sender<SettleCommand>) -> H,
        on_ready: OnReady<'a>,
        on_state: &'a (dyn Fn(&State) + Send + Sync),
    ) -> Self {
        // As many as the window: an ack waits for the socket, not for the channel.
        let (sender, commands) = mpsc::channel(items.max_capacity());
        Self {
            socket,
            v2,
            items,
            handler: handler(sender.clone()),
            on_ready: Some(on_ready),
            on_state,
            commands,
            _commands: sender,
            pending_item: None,
            unflushed: Vec::new(),
            flushing: None,
            pong_bytes: 0,
            heartbeat: Heartbeat::new(idle_timeout),
            has_delivered: false,
            extends_leases: false,
            next_extension: None,
        }
    }

    /// Whether the leases of events in flight are extended, twice in each lease time.
    pub(crate) fn extend_leases(mut self, on: bool) -> Self {
        self.extends_leases = on;
        self
    }

    /// Runs the connection until it ends.
    ///
    /// Inputs of the loop:
    /// - a place in the channel for the pending item, without which nothing is read (backpressure). The channel holds a window of
    ///   events, so this pauses only if the server sends more, or while events of an earlier connection fill it;
    /// - acks and nacks, batched while output is flushed;
    /// - the socket, read and flushed concurrently. Reading pauses while too many pongs are unflushed;
    /// - the heartbeat, for pings and timeouts;
    /// - the timer of lease extensions.
    ///
    /// It ends when the consumer drops the stream (pending acks and a close frame are sent), when the server closes the
    /// connection or it breaks, or after the idle timeout or the write timeout.
    pub(crate) async fn run(mut self) -> ConnectionEnd {
        if let Err(error) = self.handler.on_open(self.v2) {
            return ConnectionEnd::Lost { error, stable: false };
        }
        if !self.v2 {
            self.report_ready(0);
        }
        let mut commands = Vec::new();
        let error = loop {
            let has_pending_item = self.pending_item.is_some();
            let (reading, flushing) =
                (!has_pending_item && self.pong_bytes <= MAX_PONG_BYTES, self.flushing.is_some());
            let step = select! {
                () = self.items.closed() => return self.close().await,
                Ok(permit) = self.items.reserve(), if has_pending_item => {
                    if let Some(item) = self.pending_item.take() {
                        permit.send(Ok(item));
                    }
                    self.heartbeat.record_received();
                    Ok(())
                }
                _ = self.commands.recv_many(&mut commands, MAX_ACK_BATCH), if !flushing => {
                    self.write_settlements(&mut commands)
                }
                io = poll_fn(|cx| poll_io(&mut self.socket, cx, reading, flushing)) => match io {
                    Io::Flushed(result) => self.handle_flushed(result),
                    Io::Received(message) => self.receive(message).await,
                },
                () = sleep_until(self.heartbeat.next_deadline(reading, self.flushing)) => {
                    self.handle_deadline(reading)
                }
                () = until(self.next_extension), if !flushing => self.write_extensions(),
            };
            if let Err(error) = step {
                break error;
            }
        };
        ConnectionEnd::Lost { error, stable: self.has_delivered || self.heartbeat.age() >= STABLE_AFTER }
    }

    fn write(&mut self, message: Message) -> Result<(), Error> {
        self.flushing.get_or_insert_with(Instant::now);
        // tungstenite buffers every message, so there is no readiness to wait for. A batch is written only after the one before
        // is flushed, and fits into the buffer.
        Pin::new(&mut self.socket).start_send(message).map_err(disconnected)
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let result = poll_fn(|cx| Pin::new(&mut self.socket).poll_flush(cx)).await;
        self.handle_flushed(result)
    }

    fn handle_flushed(&mut self, result: Result<(), tungstenite::Error>) -> Result<(), Error> {
        result.map_err(disconnected)?;
        self.flushing = None;
        if mem::take(&mut self.pong_bytes) > MAX_PONG_BYTES {
            // Reading was paused and resumes.
            self.heartbeat.record_received();
        }
        for command in self.unflushed.drain(..) {
            if command.disposition.is_final() {
                self.handler.on_settled(&command.id);
            }
            // The caller no longer waits; ignore.
            let _ = command.flushed.send(());
        }
        Ok(())
    }

    async fn receive(&mut self, message: Option<Result<Message, tungstenite::Error>>) -> Result<(), Error> {
        self.heartbeat.record_received();
        match message {
            Some(Ok(Message::Text(text))) => self.handle_message(&text),
            Some(Ok(Message::Close(frame))) => {
                // Sends the codec's own close frame. The connection has ended even if that fails.
                let _ = timeout(CLOSE_TIMEOUT, poll_fn(|cx| Pin::new(&mut self.socket).poll_flush(cx))).await;
                let code = frame.map_or_else(String::new, |frame| format!(" ({})", u16::from(frame.code)));
                Err(Error::new(ErrorKind::Disconnected, format!("the server closed the connection{code}")))
            }
            Some(Ok(Message::Ping(data))) => {
                // The codec has queued a pong.
                self.pong_bytes += data.len() + FRAME_OVERHEAD;
                self.flushing.get_or_insert_with(Instant::now);
                Ok(())
            }
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(disconnected(error)),
            None => Err(Error::new(ErrorKind::Disconnected, "the connection ended without a close frame")),
        }
    }

    fn handle_message(&mut self, text: &str) -> Result<(), Error> {
        let message = ServerMessage::parse(text).map_err(|error| {
            // Transient, as a new connection may work.
            Error::new(ErrorKind::Disconnected, "the server sent an unreadable message").with_source(error)
        })?;
        self.pending_item = match message {
            ServerMessage::Hello(hello) => {
                self.heartbeat.apply_server_idle_timeout(Duration::from_millis(hello.idle_ms));
                tracing::debug!(window = hello.window, lease_ms = hello.lease_ms, "received hello");
                if self.extends_leases {
                    let interval = Duration::from_millis(hello.lease_ms / 2).max(MIN_EXTENSION_INTERVAL);
                    self.next_extension = Some((Instant::now() + interval, interval));
                }
                let item = self.handler.on_hello(&hello)?;
                self.report_ready(hello.missed.unwrap_or_default());
                item
            }
            ServerMessage::Event(event) => {
                let id = event.id.clone();
                let item = self.handler.on_event(*event)?;
                self.has_delivered = true;
                self.report_ready(0);
                if item.is_none() {
                    tracing::debug!(%id, "dropped a duplicate of an event that is in flight or settled");
                }
                item
            }
            ServerMessage::Undecodable(event) => {
                self.report_ready(0);
                self.leave_undecodable(&event)?;
                None
            }
            ServerMessage::Gap { missed } => self.handler.on_gap(missed),
            ServerMessage::Unknown => {
                tracing::debug!("ignored a message of unknown type");
                None
            }
        };
        Ok(())
    }

    fn report_ready(&mut self, missed: u64) {
        if let Some(on_ready) = self.on_ready.take() {
            on_ready(self.v2, missed);
        }
    }

    fn handle_deadline(&mut self, reading: bool) -> Result<(), Error> {
        if self.heartbeat.is_dead(reading, self.flushing) {
            return Err(Error::new(
                ErrorKind::Disconnected,
                "the connection is dead: nothing was received or sent in time",
            ));
        }
        if self.flushing.is_none() && self.heartbeat.is_ping_due() {
            self.heartbeat.record_ping();
            self.write(Message::Ping(bytes::Bytes::new()))?;
        }
        Ok(())
    }

    /// Sends the pending acks and nacks and a close frame. The server then redelivers the other events at once.
    async fn close(mut self) -> ConnectionEnd {
        self.commands.close();
        let closing = async {
            let mut commands = Vec::new();
            while self.commands.recv_many(&mut commands, MAX_ACK_BATCH).await > 0 {
                self.write_settlements(&mut commands)?;
                // The buffer has room for one batch.
                self.flush().await?;
            }
            self.write(Message::Close(None))?;
            self.flush().await?;
            // Read until the server has closed too: closing a socket with unread data resets the connection, and acks that are
            // in transit would be lost.
            while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut self.socket).poll_next(cx)).await {}
            Ok::<_, Error>(())
        };
        match timeout(CLOSE_TIMEOUT, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "closing handshake failed"),
            Err(_) => tracing::debug!("closing handshake timed out"),
        }
        ConnectionEnd::Unsubscribed
    }
}

#[cfg(test)]
mod tests;
