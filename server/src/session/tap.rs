//! A websocket that sees its app's events as they arrive, and takes none.

use std::{convert::Infallible, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;
use wwproxy_protocol::ServerMessage;

use super::{
    Terms,
    peer::{End, Peer, understand},
};
use crate::{
    proxy::Proxy,
    store::{Shown, Tap},
};

/// The attempt of an event that is shown: that is no handing out.
const NO_ATTEMPT: u32 = 0;

/// Shows a client what arrives until it goes, breaks the protocol, falls silent, reads too slowly, loses its
/// app, or the server stops.
///
/// One `select!` over: the client, with its heartbeat and shutdown; the tap, while nothing is left to
/// send. What arrives meanwhile waits in the tap, or becomes a gap.
pub(crate) async fn run_tap<S>(
    proxy: Arc<Proxy>,
    terms: Terms,
    mut tap: Tap,
    socket: WebSocketStream<S>,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut peer = Peer::new(proxy, terms, socket, shutdown);
    let Err(end) = show(&mut peer, &mut tap).await;
    // Its place is free while the goodbye is on its way.
    drop(tap);
    tracing::debug!(app = %peer.terms.app, ?end, "a tap ended");
    peer.end(end).await;
}

async fn show<S>(peer: &mut Peer<S>, tap: &mut Tap) -> Result<Infallible, End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let is_drained = peer.connection.is_drained();
        tokio::select! {
            biased;
            said = peer.next() => {
                // An acknowledgement means nothing here, as a tap has nothing.
                understand(said?)?;
            }
            shown = tap.next(), if is_drained => {
                for shown in shown {
                    let message = match shown {
                        Shown::Event(event) if peer.terms.v2 => event.encode_v2(NO_ATTEMPT),
                        Shown::Event(event) => event.encode_legacy(),
                        Shown::Gap(missed) => ServerMessage::gap(missed),
                    };
                    peer.connection.push(message);
                }
            }
        }
    }
}
