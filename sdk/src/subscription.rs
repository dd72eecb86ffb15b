//! The event stream of an app.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::Stream;
use tokio::{sync::mpsc, task::JoinHandle};
use wwproxy_protocol::{
    api::DEFAULT_WINDOW,
    message::{EventMessage, Hello},
};

use crate::{
    Delivery, Error, ListenOptions, api_client::ApiClient, connection::MessageHandler, delivery::Deliverer,
    reconnect,
};

/// The event stream of an app, over a websocket that reconnects automatically.
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
    pub(crate) fn start(api: ApiClient, options: ListenOptions) -> Self {
        let window = options.window.unwrap_or(DEFAULT_WINDOW) as usize;
        let (sender, deliveries) = mpsc::channel(window);
        let query = options.window.map(|window| ("window", window.to_string()));
        let task = reconnect::run(api, options, query, |commands, _| Deliverer::new(commands), sender);
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

impl MessageHandler for Deliverer {
    type Item = Delivery;

    fn on_open(&mut self, _v2: bool) -> Result<(), Error> {
        Ok(())
    }

    fn on_hello(&mut self, _hello: &Hello) -> Result<Option<Delivery>, Error> {
        Ok(None)
    }

    fn on_event(&mut self, event: EventMessage) -> Result<Option<Delivery>, Error> {
        Ok(self.deliver(event))
    }

    /// Only taps have gaps.
    fn on_gap(&mut self, _missed: u64) -> Option<Delivery> {
        None
    }
}
