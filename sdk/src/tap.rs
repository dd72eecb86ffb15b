//! Events watched as they come, while they stay whose they are.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::Stream;
use tokio::task::JoinHandle;
use wwproxy_protocol::{
    api::DEFAULT_WINDOW,
    message::{EventMessage, Hello},
};

use crate::{
    Client, Error, ErrorKind, ListenOptions,
    feed::{Feed, keep_up},
    prefetch::{self, PrefetchReceiver, Prefetched},
};

/// What a [`Tap`] shows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tapped {
    /// An event that the server has just taken. Its `attempt` is 0: it was not handed out.
    Event(EventMessage),
    /// Here events are missing.
    #[non_exhaustive]
    Gap {
        /// How many. `None`: the connection was away, and nobody knows how many came meanwhile.
        missed: Option<u64>,
    },
}

/// An app's events as they come, read-only: whoever listens gets them all the same, and nothing is acknowledged.
///
/// It shows what comes while it is open, and no stored events. Who takes them too slowly is shown a [gap](Tapped::Gap),
/// as after a connection that was lost; it reconnects as a [`Subscription`](crate::Subscription) does. A server that
/// cannot be tapped ends it with [`ErrorKind::Protocol`]. Dropping it closes the connection; [`close`](Self::close)
/// also waits for that.
///
/// ```no_run
/// use futures_util::StreamExt;
/// use wwproxy_sdk::{Client, Error, ListenOptions, Tapped};
///
/// async fn watch(client: &Client) -> Result<(), Error> {
///     let mut tap = client.tap(ListenOptions::new());
///     while let Some(tapped) = tap.next().await {
///         match tapped? {
///             Tapped::Event(event) => println!("{}: {} bytes", event.id, event.body.len()),
///             Tapped::Gap { missed: Some(n), .. } => println!("{n} events are missing here"),
///             _ => println!("some events may be missing here"),
///         }
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Tap {
    items: PrefetchReceiver<Tapped>,
    task: JoinHandle<()>,
}

impl Tap {
    pub(crate) fn start(client: Client, options: ListenOptions) -> Self {
        let window = options.window.unwrap_or(DEFAULT_WINDOW) as usize;
        let (sender, items) = prefetch::buffer(window, options.max_prefetch_bytes);
        let watch = |_, again| Watch { again, confirmed: false };
        let task = keep_up(client, options, Some(("tap", "1".to_owned())), watch, sender);
        Self { items, task: tokio::spawn(task) }
    }

    /// Ends the tap and waits until its connection is closed. Takes a second at most.
    pub async fn close(self) {
        let Self { items, task } = self;
        drop(items);
        // The task ends by itself once nobody receives; if a callback made it panic, it is over too.
        let _ = task.await;
    }
}

impl Stream for Tap {
    type Item = Result<Tapped, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(cx).map(|item| item.map(|tapped| tapped.map(Prefetched::take)))
    }
}

/// One connection of a tap.
struct Watch {
    /// Whether there was another before, and the time between is still to be told.
    again: bool,
    /// Whether the server said that it knows this for a tap. One that does not would lease events to it.
    confirmed: bool,
}

impl Watch {
    fn confirm(&mut self, tap: bool) -> Result<(), Error> {
        self.confirmed = tap;
        if tap {
            return Ok(());
        }
        let message = "the server is too old to be tapped; update it, or listen instead";
        Err(Error::new(ErrorKind::Protocol, message))
    }
}

impl Feed for Watch {
    type Item = Tapped;

    fn opened(&mut self, v2: bool) -> Result<(), Error> {
        if v2 { Ok(()) } else { self.confirm(false) }
    }

    fn hello(&mut self, hello: &Hello) -> Result<Option<Tapped>, Error> {
        self.confirm(hello.tap)?;
        Ok(mem::take(&mut self.again).then_some(Tapped::Gap { missed: None }))
    }

    fn event(&mut self, event: EventMessage) -> Result<Option<Tapped>, Error> {
        self.confirm(self.confirmed)?;
        Ok(Some(Tapped::Event(event)))
    }

    fn gap(&mut self, missed: u64) -> Option<Tapped> {
        Some(Tapped::Gap { missed: Some(missed) })
    }
}
