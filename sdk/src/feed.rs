//! What a subscription and a tap have in common: one websocket after the other, as long as somebody wants what comes.

use std::{
    future::pending,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{
    select,
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use wwproxy_protocol::message::{EventMessage, Hello};

use crate::{
    Client, Error, ErrorKind, ListenOptions, State,
    backoff::Backoff,
    connection::{Connection, Ended, connect},
    delivery::Order,
    prefetch::PrefetchSender,
};

/// Makes what a stream yields of what comes over one connection. An error ends the connection; one that is not transient
/// ends the stream too.
pub(crate) trait Feed: Send {
    type Item: Send;

    /// The handshake is done; `v2`: the server will say hello.
    fn opened(&mut self, v2: bool) -> Result<(), Error>;

    /// The server said hello.
    fn hello(&mut self, hello: &Hello) -> Result<Option<Self::Item>, Error>;

    /// An event came.
    fn event(&mut self, event: EventMessage) -> Result<Option<Self::Item>, Error>;

    /// So many events were left out.
    fn gap(&mut self, missed: u64) -> Option<Self::Item>;
}

/// Keeps a connection up, for items that go to `items`. Each connection gets a new feed, made of where its orders go and
/// of whether another was connected before it.
///
/// Each step is one wait for one thing: the handshake, the life of the connection, the delay before the next. All of
/// them end when nobody takes items any more, and the whole with an error that no retry will mend, or once there was no
/// connection for as long as the options allow.
pub(crate) async fn keep_up<F: Feed>(
    client: Client,
    options: ListenOptions,
    query: Option<(&'static str, String)>,
    feed: impl Fn(mpsc::Sender<Order>, bool) -> F,
    items: PrefetchSender<F::Item>,
) {
    let mut backoff = Backoff::default();
    let mut patience = Patience::new(options.max_disconnected);
    let mut again = false;
    let error = loop {
        let ready = AtomicBool::new(false);
        let tell = |v2| {
            ready.store(true, Ordering::Relaxed);
            tracing::info!(app = %client.app_id(), v2, "connected");
            (options.on_state)(&State::Connected { v2 });
        };
        let life = async {
            let connected = select! {
                () = items.closed() => return Ended::Unsubscribed,
                connected = connect(&client, &options, query.as_ref()) => connected,
            };
            match connected {
                Ok((socket, v2)) => {
                    let feed = |orders| feed(orders, again);
                    Connection::new(socket, v2, options.idle_timeout, &items, feed, &tell).run().await
                }
                Err(error) => Ended::Lost { error, worked: false },
            }
        };
        let ended = select! {
            ended = life => ended,
            () = patience.over_without(&ready) => break patience.error(),
        };
        let (error, worked) = match ended {
            Ended::Unsubscribed => return,
            Ended::Lost { error, worked } => (error, worked),
        };
        if worked {
            backoff.reset();
        }
        if ready.into_inner() {
            again = true;
            patience = Patience::new(options.max_disconnected);
        }
        if !error.is_transient() {
            break error;
        }
        let delay = backoff.next(error.retry_after());
        tracing::warn!(app = %client.app_id(), %error, ?delay, "not connected");
        patience.last = Some(error.clone());
        (options.on_state)(&State::Reconnecting { error, delay });
        select! {
            () = items.closed() => return,
            () = patience.over() => break patience.error(),
            () = sleep(delay) => {}
        }
    };
    tracing::warn!(app = %client.app_id(), %error, "the stream ended");
    items.fail(error).await;
}

/// How long to go on without a connection.
struct Patience {
    ends: Option<Instant>,
    last: Option<Error>,
}

impl Patience {
    /// Patience from now on, for ever where no limit is given or none that comes in this world.
    fn new(limit: Option<Duration>) -> Self {
        Self { ends: limit.and_then(|limit| Instant::now().checked_add(limit)), last: None }
    }

    async fn over(&self) {
        match self.ends {
            Some(ends) => sleep_until(ends).await,
            None => pending().await,
        }
    }

    /// Never over where there is a connection by then.
    async fn over_without(&self, connection: &AtomicBool) {
        self.over().await;
        if connection.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
    }

    /// Why there was no connection.
    fn error(&mut self) -> Error {
        self.last.take().unwrap_or_else(|| {
            let message = "there was no connection in time; check the server's address and the network";
            Error::new(ErrorKind::Unreachable, message)
        })
    }
}
