//! The event stream of a consumer.

mod ack_floor;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use futures_util::Stream;
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinHandle};
use wwproxy_protocol::{
    ConsumerName, EventId, Start,
    api::DEFAULT_WINDOW,
    message::{EventMessage, Hello},
};

use self::ack_floor::AckFloor;
use crate::{
    Delivery, Error, ErrorKind, ListenOptions,
    api_client::ApiClient,
    connection::MessageHandler,
    delivery::{Deliverer, SettleCommand},
    reconnect::{self, Opening},
};

/// The event stream of a consumer, over a websocket that reconnects automatically.
///
/// Transient errors (the network, a server that restarts or is busy) are retried forever, with exponential backoff and jitter.
/// A permanent error (refused credentials, an unknown app, a wrong address) is the last item of the stream.
///
/// The prefetch is limited to a [window](ListenOptions::window) of events: a slow consumer slows the server down (backpressure)
/// and loses no events. Events that were prefetched when their connection broke are skipped, because they are redelivered.
///
/// Dropping the subscription closes the connection; [`close`](Self::close) also waits for that. Complete acks first, as they need
/// the connection.
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
    deliveries: mpsc::Receiver<Result<Delivery, Error>>,
    task: JoinHandle<()>,
}

impl Subscription {
    /// `consumer`: `None` for `default`, or for an ephemeral one if the options have a position.
    pub(crate) fn start(api: ApiClient, consumer: Option<ConsumerName>, options: ListenOptions) -> Self {
        let window = options.window.unwrap_or(DEFAULT_WINDOW) as usize;
        let (sender, deliveries) = mpsc::channel(window);
        let cursor = match (consumer, options.since.clone()) {
            (Some(_), Some(_)) => {
                let message =
                    "a consumer has its position on the server: seek it, or listen without a consumer";
                let task = async move {
                    // The subscription was dropped; ignore.
                    let _ = sender.send(Err(Error::new(ErrorKind::Usage, message))).await;
                };
                return Self { deliveries, task: tokio::spawn(task) };
            }
            (Some(name), None) => Cursor::Named(name),
            (None, Some(start)) => Cursor::ephemeral(start),
            (None, None) => Cursor::Default,
        };
        let window = options.window.map(|window| ("window", window.to_string()));
        let query = {
            let cursor = cursor.clone();
            move || window.iter().cloned().chain(cursor.query()).collect()
        };
        let handler = move |commands, opening: Opening| Handler::new(commands, cursor.clone(), opening.time);
        let task = reconnect::run(api, options, query, handler, sender);
        Self { deliveries, task: tokio::spawn(task) }
    }

    /// Ends the subscription: sends the pending acks and closes the connection. The server then redelivers unacknowledged
    /// events to other clients at once. Takes a second at most.
    pub async fn close(self) {
        let Self { deliveries, task } = self;
        drop(deliveries);
        // The task ends when the receiver is dropped. It fails only if a callback of the options panicked.
        let _ = task.await;
    }
}

impl Stream for Subscription {
    type Item = Result<Delivery, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.deliveries.poll_recv(cx)) {
                Some(Ok(delivery)) if delivery.is_stale() => {}
                item => return Poll::Ready(item),
            }
        }
    }
}

/// The consumer whose events a subscription receives.
#[derive(Clone)]
pub(crate) enum Cursor {
    Default,
    Named(ConsumerName),
    Ephemeral(Arc<Mutex<AckFloor>>),
}

impl Cursor {
    fn ephemeral(start: Start) -> Self {
        Self::Ephemeral(Arc::new(Mutex::new(AckFloor::new(start))))
    }

    /// The parameter that a handshake has for it.
    fn query(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Default => None,
            Self::Named(name) => Some(("consumer", name.to_string())),
            Self::Ephemeral(floor) => Some(("since", floor.lock().position().to_string())),
        }
    }

    /// Whether the server has confirmed it in its hello.
    fn is_confirmed_by(&self, hello: &Hello) -> bool {
        match self {
            Self::Default => true,
            Self::Named(name) => hello.consumer.as_ref() == Some(name),
            Self::Ephemeral(_) => hello.missed.is_some(),
        }
    }
}

/// The message handler of a subscription.
pub(crate) struct Handler {
    deliverer: Deliverer,
    cursor: Cursor,
    /// The time of the server when the connection was opened.
    opened_at: SystemTime,
    /// Whether the server has confirmed the consumer. One that does not know consumers would lease the events of `default`.
    is_confirmed: bool,
}

impl Handler {
    pub(crate) fn new(commands: mpsc::Sender<SettleCommand>, cursor: Cursor, opened_at: SystemTime) -> Self {
        let is_confirmed = matches!(cursor, Cursor::Default);
        Self { deliverer: Deliverer::new(commands), cursor, opened_at, is_confirmed }
    }

    fn check_confirmed(&self) -> Result<(), Error> {
        if self.is_confirmed {
            return Ok(());
        }
        let message =
            "the server does not know consumers: it is too old; update it, or listen without a consumer";
        Err(Error::new(ErrorKind::Protocol, message))
    }
}

impl MessageHandler for Handler {
    type Item = Delivery;

    fn on_open(&mut self, v2: bool) -> Result<(), Error> {
        if v2 { Ok(()) } else { self.check_confirmed() }
    }

    fn on_hello(&mut self, hello: &Hello) -> Result<Option<Delivery>, Error> {
        self.is_confirmed = self.cursor.is_confirmed_by(hello);
        self.check_confirmed()?;
        if let Cursor::Ephemeral(floor) = &self.cursor {
            floor.lock().on_open(self.opened_at);
        }
        Ok(None)
    }

    fn on_event(&mut self, event: EventMessage) -> Result<Option<Delivery>, Error> {
        self.check_confirmed()?;
        if let Cursor::Ephemeral(floor) = &self.cursor
            && !floor.lock().receive(&event.id)
        {
            self.deliverer.ack_again(event.id);
            return Ok(None);
        }
        Ok(self.deliverer.deliver(event))
    }

    fn in_flight(&self) -> Vec<EventId> {
        self.deliverer.in_flight()
    }

    fn on_settled(&mut self, id: &EventId) {
        if let Cursor::Ephemeral(floor) = &self.cursor {
            floor.lock().settle(id);
        }
    }

    /// Only taps have gaps.
    fn on_gap(&mut self, _missed: u64) -> Option<Delivery> {
        None
    }
}
