//! A stream of events over as many websockets as it takes.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use reqwest::{Response, StatusCode, Upgraded, header};
use tokio::{select, sync::mpsc, task::JoinHandle, time::sleep};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};
use wwproxy_protocol::api::{DEFAULT_WINDOW, SUBPROTOCOL_V2, path};

use crate::{
    Client, Delivery, Error, ErrorKind, ListenOptions,
    backoff::Backoff,
    connection::{Connection, Ended, Incoming, Item},
};

/// The codec's buffers, in bytes. Its own default of 128 KiB each is for far more traffic.
const SOCKET_BUFFER_BYTES: usize = 16 * 1024;

/// The state of a subscription's connection, as told to [`ListenOptions::on_state`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum State {
    /// A websocket is open, and a `wwproxy.v2` server has said hello: it hands out events.
    #[non_exhaustive]
    Connected {
        /// Whether the server speaks `wwproxy.v2`; if not, it is a legacy server.
        v2: bool,
    },
    /// There is no connection; the next try is after the delay.
    #[non_exhaustive]
    Reconnecting {
        /// Why.
        error: Error,
        /// How long until the next try.
        delay: Duration,
    },
}

/// The events of an app as a stream, over a websocket that is made anew whenever it breaks.
///
/// Yields events only. What a retry may mend (the network, a server that restarts or is busy) is retried for ever, with
/// growing random delays; what none will mend (refused credentials, an unknown app, a wrong address) comes as the
/// last item, an error. No more than the window is read ahead: who does not take events, slows the server down and loses
/// none. Events that were read but not taken when their connection broke are skipped, since they come again.
///
/// Dropping it closes the connection; [`close`](Self::close) also waits for that. Acks need the subscription: finish
/// them first.
///
/// ```no_run
/// use futures_util::StreamExt;
/// use wwproxy_sdk::{Client, Error, ListenOptions};
///
/// async fn first_event(client: &Client) -> Result<(), Error> {
///     let mut events = client.listen(ListenOptions::new().window(1));
///     if let Some(event) = events.next().await {
///         event?.ack().await?;
///     }
///     events.close().await;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Subscription {
    deliveries: mpsc::Receiver<Item>,
    task: JoinHandle<()>,
}

impl Subscription {
    pub(crate) fn start(client: Client, options: ListenOptions) -> Self {
        let window = options.window.unwrap_or(DEFAULT_WINDOW) as usize;
        let (sender, deliveries) = mpsc::channel(window);
        Self { deliveries, task: tokio::spawn(run(client, options, sender)) }
    }

    /// The next that came, of whatever kind.
    pub(crate) fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.deliveries.poll_recv(cx)
    }

    /// Ends the subscription: the acks that were awaited are sent, the connection is closed, and the server hands what was
    /// not acknowledged to others at once. Takes a second at most.
    pub async fn close(self) {
        let Self { deliveries, task } = self;
        drop(deliveries);
        // The task ends by itself once nobody receives; if a callback made it panic, it is over too.
        let _ = task.await;
    }
}

impl Stream for Subscription {
    type Item = Result<Delivery, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.poll_incoming(cx)) {
                Some(Ok(Incoming::Event(delivery))) if delivery.is_stale() => {}
                Some(Ok(Incoming::Event(delivery))) => return Poll::Ready(Some(Ok(delivery))),
                // Gaps are told to taps only.
                Some(Ok(Incoming::Gap(_))) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// Keeps a connection up.
///
/// Each step is one wait for one thing: the handshake, the life of the connection, the delay before the next. All of
/// them end with the subscription, and the whole with an error that no retry will mend.
async fn run(client: Client, options: ListenOptions, deliveries: mpsc::Sender<Item>) {
    let mut backoff = Backoff::default();
    let mut was_connected = false;
    loop {
        let connected = select! {
            () = deliveries.closed() => return,
            connected = connect(&client, &options) => connected,
        };
        let error = match connected {
            Ok((socket, v2)) => {
                let ready = || {
                    tracing::info!(app = %client.app_id(), v2, "connected");
                    (options.on_state)(&State::Connected { v2 });
                };
                if !v2 {
                    ready();
                }
                if options.tap && was_connected && deliveries.send(Ok(Incoming::Gap(None))).await.is_err() {
                    return;
                }
                was_connected = true;
                match Connection::new(socket, v2, options.idle_timeout, &deliveries, &ready).run().await {
                    Ended::Unsubscribed => return,
                    Ended::Lost { error, worked } => {
                        if worked {
                            backoff.reset();
                        }
                        error
                    }
                }
            }
            Err(error) => error,
        };
        if !error.is_transient() {
            tracing::warn!(app = %client.app_id(), %error, "the subscription ended");
            // Nobody to tell is nobody to mind.
            let _ = deliveries.send(Err(error)).await;
            return;
        }
        let delay = backoff.next(error.retry_after());
        tracing::warn!(app = %client.app_id(), %error, ?delay, "not connected");
        (options.on_state)(&State::Reconnecting { error, delay });
        select! {
            () = deliveries.closed() => return,
            () = sleep(delay) => {}
        }
    }
}

/// The websocket handshake (RFC 6455, section 4.1), by reqwest. Tells whether the server speaks `wwproxy.v2`.
async fn connect(
    client: &Client,
    options: &ListenOptions,
) -> Result<(WebSocketStream<Upgraded>, bool), Error> {
    let mut url = client.url(&path::webhooks(client.app_id()))?;
    if let Some(window) = options.window {
        url.query_pairs_mut().append_pair("window", &window.to_string());
    }
    if options.tap {
        url.query_pairs_mut().append_pair("tap", "1");
    }
    let key = generate_key();
    let request = |http: &reqwest::Client| {
        http.get(url.clone())
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key)
            .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL_V2)
    };
    let response = client.send(&url, request).await?;
    let v2 = check(&response, &key)?;
    if options.tap && !v2 {
        // It would hand events out, and nobody would acknowledge them.
        return Err(Error::new(
            ErrorKind::Protocol,
            "the server is too old for a tap; listen or lease instead",
        ));
    }
    let upgraded = response.upgrade().await.map_err(|error| Error::transport(error, &url))?;
    let config = WebSocketConfig::default()
        .read_buffer_size(SOCKET_BUFFER_BYTES)
        .write_buffer_size(SOCKET_BUFFER_BYTES)
        .max_message_size(Some(options.max_message_bytes))
        .max_frame_size(Some(options.max_message_bytes));
    Ok((WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await, v2))
}

/// Whether the answer opens a websocket, and if so whether it speaks `wwproxy.v2`.
fn check(response: &Response, key: &str) -> Result<bool, Error> {
    let wrong = |message| Err(Error::new(ErrorKind::Protocol, message));
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // Not tried again: something that takes the upgrade out of the request makes it a poll, which empties the queue.
        return wrong(
            "no websocket was opened; something between here and the server does not pass websockets on",
        );
    }
    let upgrades = header(header::UPGRADE).is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
    if !upgrades || header(header::SEC_WEBSOCKET_ACCEPT) != Some(&derive_accept_key(key.as_bytes())) {
        return wrong("the answer to the websocket handshake is wrong; check the server's address");
    }
    match header(header::SEC_WEBSOCKET_PROTOCOL) {
        Some(SUBPROTOCOL_V2) => Ok(true),
        None => Ok(false),
        Some(_) => {
            wrong("the server speaks a websocket subprotocol that was not asked for; check its address")
        }
    }
}
