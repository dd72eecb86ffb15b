//! A tap: a websocket that watches its app's events as they are stored, without leasing them.

use std::{convert::Infallible, sync::Arc};

use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::frame::coding::CloseCode};
use tokio_util::sync::CancellationToken;
use wwproxy_protocol::ServerMessage;

use super::link::{End, Link, SessionConfig, parse};
use crate::{
    proxy::Proxy,
    store::{Tap, TapItem},
};

/// The attempt of an event on a tap, which is no delivery.
const NO_ATTEMPT: u32 = 0;

/// Sends a client the events that are stored until it disconnects, violates the protocol, is idle or reads too slowly, its
/// token is refused, or the server stops.
///
/// One `select!` over: the client's input, heartbeat and shutdown; the tap, while no output is unsent. Events that are stored
/// meanwhile wait in the tap, or are counted in a gap.
pub(crate) async fn run_tap<S>(
    proxy: Arc<Proxy>,
    config: SessionConfig,
    mut tap: Tap,
    socket: WebSocketStream<S>,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut link = Link::new(proxy, config, socket, shutdown);
    let Err(end) = send_events(&mut link, &mut tap).await;
    // Another tap may be opened while this one sends its close frame.
    drop(tap);
    tracing::debug!(app = %link.config.app, ?end, "a tap ended");
    link.close(end).await;
}

async fn send_events<S>(link: &mut Link<S>, tap: &mut Tap) -> Result<Infallible, End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let is_drained = link.websocket.is_drained();
        tokio::select! {
            biased;
            input = link.next() => {
                // Acknowledgements are ignored, as a tap leases nothing.
                parse(input?)?;
            }
            item = tap.next(), if is_drained => {
                let message = match item {
                    Some(TapItem::Event(event)) if link.config.v2 => event.encode_v2(NO_ATTEMPT, 0),
                    Some(TapItem::Event(event)) => event.encode_legacy(),
                    Some(TapItem::Gap(missed)) => ServerMessage::gap(missed),
                    None => return Err(End::Close(CloseCode::Policy, "the app was unregistered")),
                };
                link.websocket.push(message);
            }
        }
    }
}
