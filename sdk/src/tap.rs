//! A read-only stream of an app's events.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::Stream;
use tokio::{sync::mpsc, task::JoinHandle};
use wwproxy_protocol::{
    api::DEFAULT_WINDOW,
    message::{EventMessage, Hello},
};

use crate::{
    Error, ErrorKind, ListenOptions,
    api_client::ApiClient,
    connection::MessageHandler,
    reconnect::{self, Opening},
};

/// An item of a [`Tap`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TapItem {
    /// An event that the server has just received. Its `attempt` is 0, as it was not delivered.
    Event(Box<EventMessage>),
    /// Events are missing here.
    #[non_exhaustive]
    Gap {
        /// The number of missing events, or `None` if it is unknown because the connection was lost.
        missed: Option<u64>,
    },
}

/// A read-only stream of an app's events: other clients receive the events all the same, and a tap acknowledges nothing.
///
/// It yields events that arrive while it is open, not stored ones. A slow consumer gets a [gap](TapItem::Gap), as does one
/// whose connection was lost. It reconnects like a [`Subscription`](crate::Subscription). If the server does not support
/// taps, it ends with [`ErrorKind::Protocol`]. Dropping it closes the connection; [`close`](Self::close) also waits for that.
///
/// ```no_run
/// use futures_util::StreamExt;
/// use wwproxy_sdk::{Client, Error, ListenOptions, TapItem};
///
/// async fn watch(client: &Client) -> Result<(), Error> {
///     let mut tap = client.tap(ListenOptions::new());
///     while let Some(item) = tap.next().await {
///         match item? {
///             TapItem::Event(event) => println!("{}: {} bytes", event.id, event.body.len()),
///             TapItem::Gap { missed: Some(n), .. } => println!("{n} events are missing here"),
///             _ => println!("some events may be missing here"),
///         }
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Tap {
    items: mpsc::Receiver<Result<TapItem, Error>>,
    task: JoinHandle<()>,
}

impl Tap {
    pub(crate) fn start(api: ApiClient, options: ListenOptions) -> Self {
        let window = options.window.unwrap_or(DEFAULT_WINDOW) as usize;
        let (sender, items) = mpsc::channel(window);
        let handler = |_, opening: Opening| TapHandler { gap_pending: opening.is_reconnect, is_tap: false };
        let task = reconnect::run(api, options, || vec![("tap", "1".to_owned())], handler, sender);
        Self { items, task: tokio::spawn(task) }
    }

    /// Ends the tap and waits until its connection is closed. Takes a second at most.
    pub async fn close(self) {
        let Self { items, task } = self;
        drop(items);
        // The task ends when the receiver is dropped. It fails only if a callback of the options panicked.
        let _ = task.await;
    }
}

impl Stream for Tap {
    type Item = Result<TapItem, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(cx)
    }
}

/// The message handler of a tap.
struct TapHandler {
    /// Whether this is a reconnect whose gap is not reported yet.
    gap_pending: bool,
    /// Whether the server has confirmed in its hello that this is a tap. A server that does not support taps would lease events.
    is_tap: bool,
}

impl TapHandler {
    fn check_is_tap(&self) -> Result<(), Error> {
        if self.is_tap {
            return Ok(());
        }
        let message = "the server is too old to be tapped; update it, or listen instead";
        Err(Error::new(ErrorKind::Protocol, message))
    }
}

impl MessageHandler for TapHandler {
    type Item = TapItem;

    fn on_open(&mut self, v2: bool) -> Result<(), Error> {
        if v2 { Ok(()) } else { self.check_is_tap() }
    }

    fn on_hello(&mut self, hello: &Hello) -> Result<Option<TapItem>, Error> {
        self.is_tap = hello.tap;
        self.check_is_tap()?;
        Ok(mem::take(&mut self.gap_pending).then_some(TapItem::Gap { missed: None }))
    }

    fn on_event(&mut self, event: EventMessage) -> Result<Option<TapItem>, Error> {
        self.check_is_tap()?;
        Ok(Some(TapItem::Event(Box::new(event))))
    }

    fn on_gap(&mut self, missed: u64) -> Option<TapItem> {
        Some(TapItem::Gap { missed: Some(missed) })
    }
}
