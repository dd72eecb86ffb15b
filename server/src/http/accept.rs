//! Accepts connections, and serves each until it is closed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use warp::reply::{Reply, Response};

use super::{
    Context,
    connections::{Connection, Connections, HEAD_TIMEOUT, IDLE_TIMEOUT},
    delivery_guard::{Flushes, guard_body},
    forwarded::PeerAddress,
    routes,
    socket::Socket,
    strict,
};

/// The most bytes of a request head.
const MAX_HEAD: usize = 64 << 10;
/// The most headers of a request.
const MAX_HEADERS: usize = 100;
/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The send buffer of each socket, in bytes. The system's default grows to some MiB: a slow client would receive pings
/// minutes later, and its progress could not be measured.
#[cfg(unix)]
const SEND_BUFFER: usize = 256 << 10;

/// The length of the accept queue, which the system may limit further. With a short queue a flood of connections makes other
/// clients wait for seconds, until they retransmit their SYN.
#[cfg(unix)]
const BACKLOG: i32 = 4096;

/// Accepts connections until the context's shutdown, and serves each in a task of the context.
pub(crate) async fn serve(listener: TcpListener, context: Context) {
    configure(&listener);
    let connections = Connections::new(context.settings.max_connections);
    let routes = TowerToHyperService::new(warp::service(routes(&context)));
    loop {
        let next = async {
            let (stream, peer) = listener.accept().await?;
            Ok::<_, std::io::Error>((stream, peer, connections.admit().await))
        };
        let accepted = tokio::select! {
            next = next => next,
            () = context.shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer, connection)) => {
                let served = serve_connection(
                    stream,
                    PeerAddress(peer.ip()),
                    connection,
                    routes.clone(),
                    context.shutdown.clone(),
                );
                context.tasks.spawn(served);
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Sets the length of the accept queue, and the send buffer, which accepted sockets inherit.
#[cfg(unix)]
fn configure(listener: &TcpListener) {
    use rustix::net::{listen, sockopt::set_socket_send_buffer_size};

    let configured =
        set_socket_send_buffer_size(listener, SEND_BUFFER).and_then(|()| listen(listener, BACKLOG));
    if let Err(error) = configured {
        tracing::warn!(%error, "configuring the listener failed");
    }
}

/// Other systems keep their defaults.
#[cfg(not(unix))]
fn configure(_: &TcpListener) {}

async fn serve_connection<R>(
    stream: TcpStream,
    peer: PeerAddress,
    state: Arc<Connection>,
    routes: R,
    shutdown: CancellationToken,
) where
    R: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
{
    // Nagle's algorithm would delay each small answer until the peer's ACK. This fails only on a closed socket.
    let _ = stream.set_nodelay(true);
    let flushes = Arc::new(Flushes::default());
    let socket = Socket::new(stream, Arc::clone(&flushes), Arc::clone(&state));
    let connection = Arc::clone(&state);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let serving = connection.serve();
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(Arc::clone(&connection));
        let (routes, flushes) = (routes.clone(), Arc::clone(&flushes));
        async move {
            let response = match strict::check(&request) {
                Ok(()) => routes.call(request).await?,
                Err(error) => error.into_response(),
            };
            Ok::<_, Infallible>(guard_body(response, &flushes, serving))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // `Socket` has shorter timeouts. With this one set, hyper reads as soon as a request is answered, which starts them.
        .header_read_timeout(IDLE_TIMEOUT + HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = state.evicted() => return,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke");
    }
}
