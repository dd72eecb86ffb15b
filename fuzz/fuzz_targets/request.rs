//! Arbitrary bytes on a server's port: the server does not panic or hang, and stores nothing unverified.
#![no_main]

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    time::timeout,
};
use wwproxy_protocol::{AppId, Secret};
use wwproxy_server::{
    Server, Settings,
    identity::{Apps, Builtin, DEFAULT_TOKEN_LIFETIME, TokenKey},
    store::{Limits, Registration, SqliteStore, Store},
};

/// The longest time for one request: after the client shuts down its write side no server timeout is longer.
const TIMEOUT: Duration = Duration::from_secs(20);

struct Fixture {
    runtime: Runtime,
    address: SocketAddr,
    store: Arc<SqliteStore>,
    app: AppId,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = Arc::new(runtime.block_on(SqliteStore::in_memory(Limits::default())).unwrap());
    let app: AppId = "bot".parse().unwrap();
    let folder = tempfile::tempdir().unwrap().keep();
    let identity = Builtin::new(
        Apps::new(folder.join("apps.toml")),
        TokenKey::random().unwrap(),
        DEFAULT_TOKEN_LIFETIME,
    );
    let secret = TokenKey::random().map(|_| format!("{:?}", std::time::Instant::now())).unwrap();
    let registration = Registration::watson_work(Secret::new(secret));
    let address = runtime.block_on(async {
        store.put_registration(&app, registration).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(store.clone(), Arc::new(identity), Settings::default());
        tokio::spawn(server.serve(listener, std::future::pending()));
        address
    });
    Fixture { runtime, address, store, app }
});

async fn exchange(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await?;
    Ok(response)
}

fuzz_target!(|bytes: &[u8]| {
    let Fixture { runtime, address, store, app } = &*FIXTURE;
    runtime.block_on(async {
        // A reset is valid too: the server closes a connection that sends more than it reads.
        let response = timeout(TIMEOUT, exchange(*address, bytes))
            .await
            .expect("the server closes the connection")
            .unwrap_or_default();
        assert!(response.is_empty() || response.starts_with(b"HTTP/1."));
        let stats = store.stats(app).await.unwrap();
        assert_eq!(stats.stored, 0, "an unverified webhook was stored");
        assert!(
            store.registration(app).await.unwrap().is_some(),
            "an unauthenticated request removed the registration"
        );
    });
});
