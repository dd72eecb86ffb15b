//! A look at what arrives, without taking any of it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::Stream;
use wwproxy_protocol::message::EventMessage;

use crate::{Client, Error, ListenOptions, Subscription, connection::Incoming};

/// What a [`Tap`] shows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tapped {
    /// An event that arrived. It was not handed out, so its attempt is 0.
    Event(Box<EventMessage>),
    /// Events that arrived and are not shown.
    #[non_exhaustive]
    Gap {
        /// How many, or `None` where the connection was away meanwhile and nobody counted.
        missed: Option<u64>,
    },
}

/// The events of an app as they arrive, as a stream that takes none of them: see [`Client::tap`].
///
/// It shows what is stored from now on, beside those who listen. What is not read in time is not kept for it, but counted,
/// and told as a gap. Reconnects as a [`Subscription`] does, and ends as one.
///
/// ```no_run
/// use futures_util::StreamExt;
/// use wwproxy_sdk::{Client, ListenOptions, Tapped};
///
/// # async fn run(client: Client) -> Result<(), wwproxy_sdk::Error> {
/// let mut tap = client.tap(ListenOptions::new());
/// while let Some(tapped) = tap.next().await {
///     match tapped? {
///         Tapped::Event(event) => println!("{}: {} bytes", event.id, event.body.len()),
///         Tapped::Gap { missed, .. } => println!("missed {missed:?}"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tap(Subscription);

impl Tap {
    pub(crate) fn start(client: Client, mut options: ListenOptions) -> Self {
        options.tap = true;
        Self(Subscription::start(client, options))
    }

    /// Ends it, and waits until the connection is closed.
    pub async fn close(self) {
        self.0.close().await;
    }
}

impl Stream for Tap {
    type Item = Result<Tapped, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let tapped = |incoming| match incoming {
            Incoming::Event(delivery) => Tapped::Event(Box::new(delivery.into_event())),
            Incoming::Gap(missed) => Tapped::Gap { missed },
        };
        Poll::Ready(ready!(self.0.poll_incoming(cx)).map(|item| item.map(tapped)))
    }
}
