//! A handler called for each event, and what becomes of the event after it.

use std::{
    future::{Future, IntoFuture, pending},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{select, time::timeout};
use wwproxy_protocol::{EventId, api::MAX_WINDOW, message::EventMessage};

use self::work::{Outcome, Work, carry_out};
use crate::{Client, Error, ErrorKind, ListenOptions};

mod work;

/// How long the first failure of an event keeps it away, where not said.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long handlers in progress may take to end after a stop, where not said.
const GRACE: Duration = Duration::from_secs(30);

/// Why a handler could not do its work. Every error becomes one by `?`.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

type BoxFuture<'h, T> = Pin<Box<dyn Future<Output = T> + Send + 'h>>;

/// Calls a handler for each event of an app, until it is stopped: see [`Client::run`].
///
/// An event is acknowledged once its handler returned `Ok`. After an `Err`, or a panic, it is handed back and comes again
/// later: after a second the first time, then after twice as long each time, up to ten minutes. Meanwhile others are
/// handled. A connection that is lost meanwhile makes nobody do work twice; but a program that dies before an
/// acknowledgement is on the server's disk gets the event again, so a handler should bear that.
///
/// Awaiting it runs it. It returns `Ok` after a [stop](Self::stop_on), and an error where no retry will help, as
/// [`Subscription`](crate::Subscription) says. Dropping it ends it at once: handlers in progress are dropped, and their events come again.
///
/// ```no_run
/// use wwproxy_sdk::Client;
///
/// # async fn run(client: Client) -> Result<(), wwproxy_sdk::Error> {
/// client
///     .run(|event| async move {
///         let order: serde_json::Value = event.json()?;
///         println!("order {}", order["number"]);
///         Ok(())
///     })
///     .concurrency(8)
///     .stop_on(tokio::signal::ctrl_c())
///     .await
/// # }
/// ```
#[must_use = "a run does nothing until it is awaited"]
pub struct Run<'h, H> {
    client: Client,
    handler: H,
    options: ListenOptions,
    concurrency: usize,
    retry_delay: Duration,
    grace: Duration,
    stop: BoxFuture<'h, ()>,
}

impl<'h, H> Run<'h, H> {
    pub(crate) fn new(client: Client, handler: H) -> Self {
        Self {
            client,
            handler,
            options: ListenOptions::new(),
            concurrency: 1,
            retry_delay: RETRY_DELAY,
            grace: GRACE,
            stop: Box::pin(pending()),
        }
    }

    /// How many events are handled at once: 1 where not said, which means one after the other in order of arrival (but for
    /// those that failed, which come again later).
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.max(1);
        self
    }

    /// How it listens. Where the options name no window it is the concurrency: no event waits here while its lease runs
    /// out, or while another client could handle it.
    pub fn options(mut self, options: ListenOptions) -> Self {
        self.options = options;
        self
    }

    /// How long the first failure keeps an event away: 1 s where not said. Each further attempt doubles it, up to ten
    /// minutes.
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.retry_delay = delay;
        self
    }

    /// Stops when this future ends, whatever its output: no further event is handled, handlers in progress may end and their
    /// events are acknowledged, everything else is handed back.
    pub fn stop_on(mut self, stop: impl Future + Send + 'h) -> Self {
        self.stop = Box::pin(async { drop(stop.await) });
        self
    }

    /// How long handlers in progress may take to end after a stop: 30 s where not said. Those that take longer are dropped,
    /// and their events handed back.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }
}

impl<'h, H, F> IntoFuture for Run<'h, H>
where
    H: FnMut(EventMessage) -> F + Send + 'h,
    F: Future<Output = Result<(), HandlerError>> + Send + 'h,
{
    type Output = Result<(), Error>;
    type IntoFuture = BoxFuture<'h, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(run(self))
    }
}

/// Its inputs: the stop, handlers and settlements that end, events that come. It ends with the stop or the last error
/// of the subscription, and in either case lets the handlers in progress end within the grace.
async fn run<H, F>(mut run: Run<'_, H>) -> Result<(), Error>
where
    H: FnMut(EventMessage) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    let window = u32::try_from(run.concurrency).unwrap_or(MAX_WINDOW);
    let window = *run.options.window.get_or_insert(window.min(MAX_WINDOW)) as usize;
    let mut events = run.client.listen(run.options);
    let mut work = Work::new(run.retry_delay);
    let (mut handling, mut settling) = (FuturesUnordered::new(), FuturesUnordered::new());
    let result = loop {
        while handling.len() + settling.len() < run.concurrency
            && let Some(event) = work.next()
        {
            handling.push(handle(event, &mut run.handler));
        }
        select! {
            biased;
            () = &mut run.stop => break Ok(()),
            Some((id, outcome)) = handling.next() => settling.extend(work.settle(&id, outcome).map(carry_out)),
            Some(unheard) = settling.next() => work.remember(unheard),
            event = events.next_prefetched(), if work.waiting.len() < window => match event {
                Some(Ok(event)) => settling.extend(work.take(event).map(carry_out)),
                Some(Err(error)) => break Err(error),
                None => {
                    let message = "the subscription is gone; a callback of its options must not panic";
                    break Err(Error::new(ErrorKind::Usage, message));
                }
            },
        }
    };
    let rest = async {
        while !handling.is_empty() || !settling.is_empty() {
            work.waiting.clear();
            select! {
                Some((id, outcome)) = handling.next() => settling.extend(work.settle(&id, outcome).map(carry_out)),
                Some(unheard) = settling.next() => work.remember(unheard),
                // A connection that was lost may come back in time for what is still to be acknowledged.
                Some(Ok(event)) = events.next_prefetched() => settling.extend(work.take(event).map(carry_out)),
            }
        }
    };
    if timeout(run.grace, rest).await.is_err() {
        tracing::warn!("handlers did not end in time; their events will come again");
    }
    events.close().await;
    result
}

/// Calls the handler. A panic, of the call or of its future, is an outcome like others.
fn handle<H, F>(event: EventMessage, handler: &mut H) -> impl Future<Output = (EventId, Outcome)> + use<H, F>
where
    H: FnMut(EventMessage) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    let id = event.id.clone();
    // What a panic leaves half done is the handler's own; nothing of it is looked at here.
    let called = catch_unwind(AssertUnwindSafe(|| handler(event)));
    async move {
        let ended = match called {
            Ok(future) => AssertUnwindSafe(future).catch_unwind().await,
            Err(panic) => Err(panic),
        };
        let outcome = match ended {
            Ok(Ok(())) => Outcome::Done,
            Ok(Err(error)) => Outcome::Failed(error),
            Err(_) => Outcome::Panicked,
        };
        (id, outcome)
    }
}
