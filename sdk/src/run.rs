//! A handler for each event, and what becomes of the event after it.

use std::{
    any::Any,
    fmt,
    future::{IntoFuture, pending},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{select, time::timeout};
use wwproxy_protocol::message::EventMessage;

use crate::{Client, Delivery, Error, ErrorKind, ListenOptions};

/// How long an event whose handler failed rests, the first time.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest that an event rests, however often its handler failed.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(300);
/// How long handlers in progress may take to end after a stop.
const GRACE: Duration = Duration::from_secs(10);

type Handler<'a> = Box<dyn Fn(EventMessage) -> BoxFuture<'a, Result<(), String>> + Send + Sync + 'a>;

/// Calls a handler for each event, until it is stopped: see [`Client::run`]. Await it to start it; dropping the future
/// stops it at once, and what was not acknowledged comes again.
#[must_use = "it does nothing until it is awaited"]
pub struct Run<'a> {
    client: Client,
    handler: Handler<'a>,
    options: ListenOptions,
    concurrency: usize,
    retry_delay: Duration,
    grace: Duration,
    stop: BoxFuture<'a, ()>,
}

impl<'a> Run<'a> {
    pub(crate) fn new<H, F, E>(client: Client, handler: H) -> Self
    where
        H: Fn(EventMessage) -> F + Send + Sync + 'a,
        F: Future<Output = Result<(), E>> + Send + 'a,
        E: fmt::Display + 'a,
    {
        let told = |handled: Result<(), E>| handled.map_err(|error| error.to_string());
        Self {
            client,
            handler: Box::new(move |event| handler(event).map(told).boxed()),
            options: ListenOptions::new(),
            concurrency: 1,
            retry_delay: RETRY_DELAY,
            grace: GRACE,
            stop: pending().boxed(),
        }
    }

    /// How many handlers are at work at once, 1 where not said (and at least): then events are handled strictly one after the
    /// other. All of them run in the task that awaits, so a handler must not block.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.max(1);
        self
    }

    /// How to listen. Where that says nothing of a window, it is as wide as the concurrency: no event's lease runs out
    /// while the event waits for a handler.
    pub fn options(mut self, options: ListenOptions) -> Self {
        self.options = options;
        self
    }

    /// How long an event rests after its handler first failed: 1 s where not said. It doubles with each attempt, up to 5 minutes.
    pub fn retry_delay(mut self, first: Duration) -> Self {
        self.retry_delay = first;
        self
    }

    /// Stops once this future is ready, such as `tokio::signal::ctrl_c()`: no more events are taken, handlers in progress may
    /// end, and all other events are handed back. What the future yields is not looked at.
    pub fn stop_on(mut self, stop: impl Future + Send + 'a) -> Self {
        self.stop = stop.map(drop).boxed();
        self
    }

    /// How long handlers in progress may take to end after a stop, their acks included: 10 s where not said. One that takes
    /// longer is dropped, and its event comes again.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Takes events while a handler is free. Ends on a stop, or with an error that no retry will mend; either way the
    /// handlers in progress may end.
    async fn run(self) -> Result<(), Error> {
        let Self { client, handler, mut options, concurrency, retry_delay, grace, mut stop } = self;
        options.window = options.window.or_else(|| ListenOptions::new().window(width(concurrency)).window);
        let mut events = client.listen(options);
        let mut working = FuturesUnordered::new();
        let ended = loop {
            select! {
                biased;
                () = &mut stop => break Ok(()),
                Some(()) = working.next() => {}
                event = events.next(), if working.len() < concurrency => match event {
                    Some(Ok(event)) => working.push(handle(&handler, event, retry_delay)),
                    Some(Err(error)) => break Err(error),
                    None => break Err(lost()),
                },
            }
        };
        let all = async { while working.next().await.is_some() {} };
        if timeout(grace, all).await.is_err() {
            tracing::warn!(app = %client.app_id(), handlers = working.len(), "stopped before its handlers ended");
        }
        drop(working);
        events.close().await;
        ended
    }
}

impl<'a> IntoFuture for Run<'a> {
    type Output = Result<(), Error>;
    type IntoFuture = BoxFuture<'a, Result<(), Error>>;

    /// # Panics
    /// When polled outside of a tokio runtime.
    fn into_future(self) -> Self::IntoFuture {
        self.run().boxed()
    }
}

impl fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("client", &self.client)
            .field("options", &self.options)
            .field("concurrency", &self.concurrency)
            .field("retry_delay", &self.retry_delay)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

/// Has one event handled, and says what becomes of it.
async fn handle(handler: &Handler<'_>, event: Delivery, retry_delay: Duration) {
    let id = event.id();
    let settled = match caught(handler, event.event().clone()).await {
        Ok(Ok(())) => event.ack().await,
        Ok(Err(error)) => {
            let delay = rest(retry_delay, event.attempt());
            tracing::warn!(event = %id, %error, ?delay, "the handler failed; the event comes again");
            event.nack(delay).await
        }
        // What the panic said, the panic hook has told.
        Err(_) => {
            let delay = rest(retry_delay, event.attempt());
            tracing::error!(event = %id, ?delay, "the handler panicked; the event comes again");
            event.nack(delay).await
        }
    };
    if let Err(error) = settled {
        tracing::debug!(event = %id, %error, "not settled");
    }
}

/// What the handler makes of an event, or its panic. Nothing of this crate's is shared with the handler that a panic could leave
/// half done.
async fn caught(
    handler: &Handler<'_>,
    event: EventMessage,
) -> Result<Result<(), String>, Box<dyn Any + Send>> {
    let handling = catch_unwind(AssertUnwindSafe(|| handler(event)))?;
    AssertUnwindSafe(handling).catch_unwind().await
}

/// How long an event rests after this attempt, 1 being the first. A legacy server does not count them.
fn rest(first: Duration, attempt: Option<u32>) -> Duration {
    let doublings = attempt.unwrap_or(1).saturating_sub(1);
    first.saturating_mul(2u32.saturating_pow(doublings)).min(MAX_RETRY_DELAY)
}

fn width(concurrency: usize) -> u32 {
    u32::try_from(concurrency).unwrap_or(u32::MAX)
}

/// The subscription's task is gone and left no error: a callback of the options panicked.
fn lost() -> Error {
    Error::new(ErrorKind::Usage, "the subscription ended in a panic; check the callback given to `on_state`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_rests_longer_each_time_within_bounds() {
        let second = Duration::from_secs(1);
        for (attempt, seconds) in [
            (None, 1),
            (Some(0), 1),
            (Some(1), 1),
            (Some(2), 2),
            (Some(5), 16),
            (Some(9), 256),
            (Some(10), 300),
        ] {
            assert_eq!(rest(second, attempt), Duration::from_secs(seconds), "{attempt:?}");
        }
        assert_eq!(rest(Duration::MAX, Some(u32::MAX)), MAX_RETRY_DELAY);
        assert_eq!(rest(Duration::ZERO, Some(u32::MAX)), Duration::ZERO);
    }
}
