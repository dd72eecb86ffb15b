//! Calls a handler for each event and settles the event by its result.

use std::{
    future::{Future, IntoFuture, pending},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{select, time::timeout};
use wwproxy_protocol::{ConsumerName, api::MAX_WINDOW, message::EventMessage};

use self::dispatcher::{Dispatcher, HandlerResult, Settlement};
use crate::{Error, ErrorKind, ListenOptions, Subscription, api_client::ApiClient, delivery::DeliveryKey};

mod dispatcher;

/// The default of [`Run::retry_delay`].
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The default of [`Run::grace`].
const GRACE: Duration = Duration::from_secs(30);

/// The error of a handler. `?` converts any error.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

type BoxFuture<'h, T> = Pin<Box<dyn Future<Output = T> + Send + 'h>>;

/// Calls a handler for each event of an app until it is stopped: see [`Client::run`](crate::Client::run).
///
/// An event is acknowledged after its handler returns `Ok`. After an `Err` or a panic it is redelivered with exponential backoff:
/// after 1 s the first time, up to ten minutes; other events are handled in the meantime. The text of the error is sent to the server as
/// the reason, where it is kept in the history. A lost connection does not cause an
/// event to be handled twice. Delivery is still at least once: if the program dies before the server has stored the
/// acknowledgement, the event is redelivered, so handlers should be idempotent.
///
/// Await it to run it. It returns `Ok` after a [stop](Self::stop_on), or the permanent error that ended its
/// [`Subscription`]. Dropping it drops the handlers in progress, and their events are redelivered.
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
    api: ApiClient,
    consumer: Option<ConsumerName>,
    handler: H,
    options: ListenOptions,
    concurrency: usize,
    retry_delay: Duration,
    grace: Duration,
    stop: BoxFuture<'h, ()>,
}

impl<'h, H> Run<'h, H> {
    pub(crate) fn new(api: ApiClient, consumer: Option<ConsumerName>, handler: H) -> Self {
        Self {
            api,
            consumer,
            handler,
            options: ListenOptions::new(),
            concurrency: 1,
            retry_delay: RETRY_DELAY,
            grace: GRACE,
            stop: Box::pin(pending()),
        }
    }

    /// The number of concurrent handlers: 1 by default, so that events are handled in order of arrival, except for failed ones,
    /// which are redelivered later.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.max(1);
        self
    }

    /// Options of the subscription. Without a window in them the window is the concurrency, so that no event waits here while its
    /// lease expires, or while another client could handle it.
    pub fn options(mut self, options: ListenOptions) -> Self {
        self.options = options;
        self
    }

    /// The delay before an event is redelivered after its first failure: 1 s by default. It doubles with each attempt, up to ten
    /// minutes.
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.retry_delay = delay;
        self
    }

    /// Stops when this future completes: handlers in progress may finish and their events are settled, no other is started, and the
    /// remaining events are released for redelivery.
    pub fn stop_on(mut self, stop: impl Future + Send + 'h) -> Self {
        self.stop = Box::pin(async { drop(stop.await) });
        self
    }

    /// The grace period of handlers in progress after a stop: 30 s by default. Handlers that take longer are dropped, and their
    /// events redelivered.
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

/// Inputs of the loop: the stop, completed handlers, sent settlements, new events. It ends with the stop, or with the error of the
/// subscription. In both cases handlers in progress may finish within the grace period.
async fn run<H, F>(mut run: Run<'_, H>) -> Result<(), Error>
where
    H: FnMut(EventMessage) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    let window = u32::try_from(run.concurrency).unwrap_or(MAX_WINDOW);
    let window = *run.options.window.get_or_insert(window.min(MAX_WINDOW)) as usize;
    let mut events = Subscription::start(run.api, run.consumer, run.options);
    let mut dispatcher = Dispatcher::new(run.retry_delay);
    let (mut handling, mut settling) = (FuturesUnordered::new(), FuturesUnordered::new());
    let result = loop {
        while handling.len() + settling.len() < run.concurrency
            && let Some(event) = dispatcher.start_next()
        {
            handling.push(call_handler(event, &mut run.handler));
        }
        select! {
            biased;
            () = &mut run.stop => break Ok(()),
            Some((key, result)) = handling.next() => {
                settling.extend(dispatcher.finish(&key, result).map(Settlement::send));
            }
            Some(unacked) = settling.next() => dispatcher.remember_unacked(unacked),
            event = events.next(), if dispatcher.queue.len() < window => match event {
                Some(Ok(event)) => settling.extend(dispatcher.enqueue(event).map(Settlement::send)),
                Some(Err(error)) => break Err(error),
                None => {
                    let message = "the subscription has ended; a callback of its options must not panic";
                    break Err(Error::new(ErrorKind::Usage, message));
                }
            },
        }
    };
    let finish = async {
        while !handling.is_empty() || !settling.is_empty() {
            dispatcher.queue.clear();
            select! {
                Some((key, result)) = handling.next() => {
                    settling.extend(dispatcher.finish(&key, result).map(Settlement::send));
                }
                Some(unacked) = settling.next() => dispatcher.remember_unacked(unacked),
                // After a reconnect the redeliveries of handled events can still be acknowledged.
                Some(Ok(event)) = events.next() => {
                    settling.extend(dispatcher.enqueue(event).map(Settlement::send));
                }
            }
        }
    };
    if timeout(run.grace, finish).await.is_err() {
        tracing::warn!("handlers did not finish within the grace period; their events will be redelivered");
    }
    events.close().await;
    result
}

/// Calls the handler, and catches panics of the call and of its future.
fn call_handler<H, F>(
    event: EventMessage,
    handler: &mut H,
) -> impl Future<Output = (DeliveryKey, HandlerResult)> + use<H, F>
where
    H: FnMut(EventMessage) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    let key = (event.id.clone(), event.details.replay);
    // Unwind safe: no state of the handler is used here after a panic.
    let called = catch_unwind(AssertUnwindSafe(|| handler(event)));
    async move {
        let result = match called {
            Ok(future) => AssertUnwindSafe(future).catch_unwind().await,
            Err(panic) => Err(panic),
        };
        let result = match result {
            Ok(Ok(())) => HandlerResult::Succeeded,
            Ok(Err(error)) => HandlerResult::Failed(error),
            Err(_) => HandlerResult::Panicked,
        };
        (key, result)
    }
}
