//! A stream of events over as many websockets as it takes.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use tokio::task::JoinHandle;
use wwproxy_protocol::{
    api::DEFAULT_WINDOW,
    message::{EventMessage, Hello},
};

use crate::{
    Client, Delivery, Error, ListenOptions,
    delivery::Deliverer,
    feed::{Feed, keep_up},
    prefetch::{self, PrefetchReceiver, Prefetched},
};

/// The state of a subscription's connection, as told to [`ListenOptions::on_state`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum State {
    /// A websocket is open, and the server is ready: it said hello, or it is a legacy one, which does not.
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
/// last item, an error. At most a [window](ListenOptions::window) of events and
/// [`max_prefetch_bytes`](ListenOptions::max_prefetch_bytes) are read ahead of the consumer: a slow consumer slows the
/// server down (backpressure) and loses no events. Events that were read but not taken when their connection broke are skipped, since they come again.
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
    deliveries: PrefetchReceiver<Delivery>,
    task: JoinHandle<()>,
}

impl Subscription {
    pub(crate) fn start(client: Client, options: ListenOptions) -> Self {
        let window = options.window.unwrap_or(DEFAULT_WINDOW) as usize;
        let (sender, deliveries) = prefetch::buffer(window, options.max_prefetch_bytes);
        let query = options.window.map(|window| ("window", window.to_string()));
        let task = keep_up(client, options, query, |orders, _| Deliverer::new(orders), sender);
        Self { deliveries, task: tokio::spawn(task) }
    }

    /// The next delivery, which counts towards the prefetch limit until the caller takes it.
    pub(crate) async fn next_prefetched(&mut self) -> Option<Result<Prefetched<Delivery>, Error>> {
        poll_fn(|cx| self.poll_prefetched(cx)).await
    }

    fn poll_prefetched(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Prefetched<Delivery>, Error>>> {
        loop {
            match ready!(self.deliveries.poll_recv(cx)) {
                Some(Ok(delivery)) if delivery.get().is_stale() => {}
                item => return Poll::Ready(item),
            }
        }
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
        self.poll_prefetched(cx).map(|item| item.map(|delivery| delivery.map(Prefetched::take)))
    }
}

impl Feed for Deliverer {
    type Item = Delivery;

    fn opened(&mut self, _v2: bool) -> Result<(), Error> {
        Ok(())
    }

    fn hello(&mut self, _hello: &Hello) -> Result<Option<Delivery>, Error> {
        Ok(None)
    }

    fn event(&mut self, event: EventMessage) -> Result<Option<Delivery>, Error> {
        Ok(self.deliver(event))
    }

    /// Nobody is told of gaps who did not open a tap.
    fn gap(&mut self, _missed: u64) -> Option<Delivery> {
        None
    }
}
