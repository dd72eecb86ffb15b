//! The reconnect loop that subscriptions and taps share: one websocket after the other until the consumer drops the stream.

use std::{
    future::pending,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use tokio::{
    select,
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    Error, ErrorKind, ListenOptions, State,
    api_client::ApiClient,
    backoff::Backoff,
    connection::{Connection, ConnectionEnd, MessageHandler, Opened, connect},
    delivery::SettleCommand,
};

/// How a connection was opened.
pub(crate) struct Opening {
    pub(crate) is_reconnect: bool,
    /// The time of the server.
    pub(crate) time: SystemTime,
}

/// Keeps a connection open and sends its items to `items`. `query` returns the query of each handshake. `handler` creates the message handler of each connection from the
/// channel for its settle commands, and from how it was opened.
///
/// Each step waits for one thing: the handshake, the end of the connection, the backoff. The loop ends when the consumer drops the
/// stream, on an error that is not transient, or after `max_disconnected` without a connection.
pub(crate) async fn run<H: MessageHandler>(
    api: ApiClient,
    options: ListenOptions,
    query: impl Fn() -> Vec<(&'static str, String)>,
    handler: impl Fn(mpsc::Sender<SettleCommand>, Opening) -> H,
    items: mpsc::Sender<Result<H::Item, Error>>,
) {
    let mut backoff = Backoff::default();
    let mut deadline = ReconnectDeadline::new(options.max_disconnected);
    let mut is_reconnect = false;
    let error = loop {
        let ready = AtomicBool::new(false);
        let on_ready = |v2, missed| {
            ready.store(true, Ordering::Relaxed);
            tracing::info!(app = %api.app_id(), v2, "connected");
            if missed > 0 {
                tracing::warn!(app = %api.app_id(), missed, "retention has removed events after the requested position");
            }
            (options.on_state)(&State::Connected { v2, missed });
        };
        let query = query();
        let connection = async {
            let connected = select! {
                () = items.closed() => return ConnectionEnd::Unsubscribed,
                connected = connect(&api, &query, options.max_message_bytes) => connected,
            };
            match connected {
                Ok(Opened { socket, v2, time }) => {
                    let handler = |commands| handler(commands, Opening { is_reconnect, time });
                    let (idle, on_state) = (options.idle_timeout, &*options.on_state);
                    let connection = Connection::new(socket, v2, idle, &items, handler, &on_ready, on_state);
                    connection.extend_leases(options.extend_leases).run().await
                }
                Err(error) => ConnectionEnd::Lost { error, stable: false },
            }
        };
        let end = select! {
            end = connection => end,
            () = deadline.passed_unless(&ready) => break deadline.error(),
        };
        let (error, stable) = match end {
            ConnectionEnd::Unsubscribed => return,
            ConnectionEnd::Lost { error, stable } => (error, stable),
        };
        if stable {
            backoff.reset();
        }
        if ready.into_inner() {
            is_reconnect = true;
            deadline = ReconnectDeadline::new(options.max_disconnected);
        }
        if !error.is_transient() {
            break error;
        }
        let delay = backoff.next(error.retry_after());
        tracing::warn!(app = %api.app_id(), %error, ?delay, "not connected, will retry");
        deadline.last_error = Some(error.clone());
        (options.on_state)(&State::Reconnecting { error, delay });
        select! {
            () = items.closed() => return,
            () = deadline.passed() => break deadline.error(),
            () = sleep(delay) => {}
        }
    };
    tracing::warn!(app = %api.app_id(), %error, "the stream has ended");
    // The consumer has dropped the stream; ignore.
    let _ = items.send(Err(error)).await;
}

/// The deadline of `max_disconnected`, and the error that the stream ends with at it.
struct ReconnectDeadline {
    at: Option<Instant>,
    last_error: Option<Error>,
}

impl ReconnectDeadline {
    /// Starts now. No limit, or one beyond the range of `Instant`, never passes.
    fn new(limit: Option<Duration>) -> Self {
        Self { at: limit.and_then(|limit| Instant::now().checked_add(limit)), last_error: None }
    }

    async fn passed(&self) {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
    }

    /// Never returns if there is a connection at the deadline.
    async fn passed_unless(&self, connected: &AtomicBool) {
        self.passed().await;
        if connected.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
    }

    fn error(&mut self) -> Error {
        self.last_error.take().unwrap_or_else(|| {
            let message = "there was no connection in time; check the server's address and the network";
            Error::new(ErrorKind::Unreachable, message)
        })
    }
}
