//! Any bytes to the port of a server: it goes on, and lets nothing in.
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
use wwproxy_protocol::{AppId, Scheme, Secret};
use wwproxy_server::{
    Server, Settings,
    identity::{Apps, Builtin, DEFAULT_TOKEN_LIFETIME, TokenKey},
    store::{Limits, MemoryStore, Registration, Store},
};

/// So long one request may take, however its bytes lie: the server waits longer for none of them once
/// there are no more.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    runtime: Runtime,
    address: SocketAddr,
    store: Arc<MemoryStore>,
    app: AppId,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = Arc::new(MemoryStore::new(Limits::default()));
    let app: AppId = "bot".parse().unwrap();
    let folder = tempfile::tempdir().unwrap().keep();
    let identity = Builtin::new(
        Apps::new(folder.join("apps.toml")),
        TokenKey::random().unwrap(),
        DEFAULT_TOKEN_LIFETIME,
    );
    let secret = TokenKey::random().map(|_| format!("{:?}", std::time::Instant::now())).unwrap();
    let registration = Registration { scheme: Scheme::WatsonWork, secrets: vec![Secret::new(secret)] };
    let address = runtime.block_on(async {
        store.put_registration(&app, registration).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(store.clone(), Arc::new(identity), Settings::default());
        tokio::spawn(server.serve(listener, std::future::pending()));
        address
    });
    World { runtime, address, store, app }
});

async fn answer(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

fuzz_target!(|bytes: &[u8]| {
    let World { runtime, address, store, app } = &*WORLD;
    runtime.block_on(async {
        // A connection that is reset because it said more than the server wanted has been answered as well.
        let answer = timeout(PATIENCE, answer(*address, bytes)).await.expect("it ends").unwrap_or_default();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."));
        let stats = store.stats(app).await.unwrap();
        assert_eq!(stats.stored, 0, "nothing unverified gets in");
        assert!(store.registration(app).await.unwrap().is_some(), "and nobody else's registration goes");
    });
});
