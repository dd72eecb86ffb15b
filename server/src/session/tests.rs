//! A session over an in-memory pipe, with the clock in the test's hand.

use futures_util::{SinkExt, StreamExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, DuplexStream, duplex},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::tungstenite::{Message, protocol::Role};
use wwproxy_protocol::{AppId, ConsumerName, Secret, ServerMessage, SourceName, message::EventMessage};

use super::{
    link::{IDLE, PING},
    *,
};
use crate::{
    Settings,
    identity::{Cached, IdentityError, IdentityProvider},
    store::{Appended, NewEvent, Registration, fake::FakeStore},
};

const LEASE: Duration = Duration::from_secs(90);

/// Accepts every token as one of the fixture's app, until that app is removed.
#[derive(Debug, Default)]
struct Removable(CancellationToken);

impl IdentityProvider for Removable {
    fn identify<'a>(&'a self, _: &'a Secret) -> BoxFuture<'a, Result<String, IdentityError>> {
        let owner = if self.0.is_cancelled() { Err(IdentityError::Refused) } else { Ok("my-bot".to_owned()) };
        Box::pin(std::future::ready(owner))
    }

    fn is_suspended(&self, _: &AppId) -> bool {
        false
    }
}

/// A platform that gives this answer for every token.
#[derive(Debug, Clone)]
struct Remote(Arc<Mutex<Result<String, IdentityError>>>);

impl Remote {
    fn answer_with(&self, answer: Result<String, IdentityError>) {
        *self.0.lock() = answer;
    }
}

impl IdentityProvider for Remote {
    fn identify<'a>(&'a self, _: &'a Secret) -> BoxFuture<'a, Result<String, IdentityError>> {
        Box::pin(std::future::ready(self.0.lock().clone()))
    }

    fn is_suspended(&self, _: &AppId) -> bool {
        false
    }
}

struct Fixture {
    proxy: Arc<Proxy>,
    app: AppId,
    removed: CancellationToken,
    shutdown: CancellationToken,
}

type Client = WebSocketStream<DuplexStream>;

impl Fixture {
    async fn new() -> Self {
        let identity = Removable::default();
        let removed = identity.0.clone();
        Self::with_identity(Arc::new(identity), removed).await
    }

    async fn with_identity(identity: Arc<dyn IdentityProvider>, removed: CancellationToken) -> Self {
        let store = Arc::new(FakeStore::default());
        let settings = Settings { lease: LEASE, ..Settings::default() };
        let proxy = Arc::new(Proxy::new(store, identity, &settings));
        let app: AppId = "my-bot".parse().unwrap();
        let registration = Registration::watson_work(Secret::new("s"));
        proxy.store().put_registration(&app, registration).await.unwrap();
        Self { proxy, app, removed, shutdown: CancellationToken::new() }
    }

    async fn append(&self, body: &'static str) {
        let event = NewEvent::new(Vec::new(), None, body.into());
        let store = self.proxy.store();
        let registration = store.registration(&self.app).await.unwrap().unwrap();
        let source = Arc::clone(registration.source(&SourceName::default()).unwrap());
        let appended = store.append(&self.app, source, event, None).await.unwrap();
        assert!(matches!(appended, Appended::Stored(_)));
    }

    async fn connect(&self, window: u32) -> (Client, JoinHandle<()>) {
        self.connect_through(window, 64 << 10).await
    }

    /// A client whose pipe has this capacity in bytes.
    async fn connect_through(&self, window: u32, pipe: usize) -> (Client, JoinHandle<()>) {
        let (config, socket, client) = self.accept(window, pipe).await;
        let session = self.start(false, config, socket).await;
        (read_hello(client).await, session)
    }

    /// A tap whose pipe has this capacity in bytes.
    async fn tap_through(&self, pipe: usize) -> (Client, JoinHandle<()>) {
        let (config, socket, client) = self.accept(1, pipe).await;
        let session = self.start(true, config, socket).await;
        (read_hello(client).await, session)
    }

    /// Serves a websocket.
    async fn start(&self, is_tap: bool, config: SessionConfig, socket: Client) -> JoinHandle<()> {
        let (proxy, shutdown) = (Arc::clone(&self.proxy), self.shutdown.clone());
        if is_tap {
            let tap = self.proxy.tap(&self.app).await.unwrap();
            tokio::spawn(run_tap(proxy, config, tap, socket, shutdown))
        } else {
            tokio::spawn(run(proxy, config, socket, shutdown))
        }
    }

    fn config(&self, window: u32) -> SessionConfig {
        SessionConfig {
            app: self.app.clone(),
            consumer: ConsumerName::default(),
            consumer_ended: CancellationToken::new(),
            missed: None,
            token: Secret::new("t"),
            revocations: self.proxy.revocations(),
            window,
            v2: true,
            tap: false,
        }
    }

    /// The configuration and both ends of a websocket.
    async fn accept(&self, window: u32, pipe: usize) -> (SessionConfig, Client, Client) {
        let (ours, theirs) = duplex(pipe);
        let socket = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        (self.config(window), socket, WebSocketStream::from_raw_socket(theirs, Role::Client, None).await)
    }

    async fn leased(&self) -> u64 {
        self.proxy.status(&self.app, &ConsumerName::default()).await.unwrap().leased
    }

    async fn stored(&self) -> u64 {
        self.proxy.status(&self.app, &ConsumerName::default()).await.unwrap().stored
    }
}

async fn read_hello(mut client: Client) -> Client {
    assert!(matches!(server_message(&mut client).await, ServerMessage::Hello(_)));
    client
}

async fn server_message(client: &mut Client) -> ServerMessage {
    loop {
        match client.next().await.expect("the server has more to say").unwrap() {
            Message::Text(text) => return ServerMessage::parse(&text).unwrap(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn event(client: &mut Client) -> EventMessage {
    match server_message(client).await {
        ServerMessage::Event(event) => *event,
        other => panic!("{other:?}"),
    }
}

async fn close_code(client: &mut Client) -> u16 {
    loop {
        match client.next().await.expect("a close frame comes first").unwrap() {
            Message::Close(Some(frame)) => return frame.code.into(),
            Message::Close(None) => panic!("no code"),
            _ => {}
        }
    }
}

/// The memory of an idle websocket: a buffer in it would exist ten thousand times.
#[tokio::test]
async fn an_idle_session_is_small() {
    const MAX_SIZE: usize = 3 << 10;
    let fixture = Fixture::new().await;
    let (config, socket, _client) = fixture.accept(1, 1).await;
    let session = run(Arc::clone(&fixture.proxy), config, socket, fixture.shutdown.clone());
    assert!(size_of_val(&session) <= MAX_SIZE, "{} bytes", size_of_val(&session));
    let (config, socket, _client) = fixture.accept(1, 1).await;
    let tap = fixture.proxy.tap(&fixture.app).await.unwrap();
    let tap = run_tap(Arc::clone(&fixture.proxy), config, tap, socket, fixture.shutdown.clone());
    assert!(size_of_val(&tap) <= MAX_SIZE, "{} bytes", size_of_val(&tap));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_stays_connected() {
    let fixture = Fixture::new().await;
    let (mut client, session) = fixture.connect(1).await;
    let start = Instant::now();
    for n in 1..=10 {
        // Reading is what answers a ping.
        assert!(matches!(client.next().await, Some(Ok(Message::Ping(_)))));
        assert_eq!(start.elapsed(), PING * n);
        client.flush().await.unwrap();
    }
    assert!(!session.is_finished());
    fixture.append("{}").await;
    assert_eq!(event(&mut client).await.body, "{}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed_and_its_events_are_released() {
    let fixture = Fixture::new().await;
    fixture.append("{}").await;
    let (mut client, session) = fixture.connect(1).await;
    event(&mut client).await;
    assert_eq!(fixture.leased().await, 1);
    // From here on it reads nothing, so it answers no ping.
    let start = Instant::now();
    session.await.unwrap();
    // Its goodbye is waited for in vain.
    assert!((IDLE..IDLE + PING).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(fixture.leased().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_can_still_acknowledge() {
    let fixture = Fixture::new().await;
    fixture.append("{}").await;
    let (mut client, _session) = fixture.connect_through(8, 256).await;
    let first = event(&mut client).await;
    // Far more than the pipe holds: the session cannot get rid of these.
    for _ in 0..4 {
        fixture
            .append(concat!("[\"", "................................................................", "\"]"))
            .await;
    }
    client.send(Message::text(ClientMessage::ack(&[first.id]))).await.unwrap();
    while fixture.stored().await > 4 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_lease_is_redelivered() {
    let fixture = Fixture::new().await;
    fixture.append("{}").await;
    let (mut client, _session) = fixture.connect(1).await;
    let first = event(&mut client).await;
    let start = Instant::now();
    fixture.append("[]").await;
    let again = event(&mut client).await;
    assert_eq!(start.elapsed(), LEASE);
    assert_eq!((again.id, again.details.attempt), (first.id, Some(2)));
}

#[tokio::test(start_paused = true)]
async fn a_nacked_event_is_redelivered_after_its_delay() {
    let fixture = Fixture::new().await;
    fixture.append("{}").await;
    let (mut client, _session) = fixture.connect(8).await;
    let first = event(&mut client).await;
    let (start, delay) = (Instant::now(), Duration::from_secs(7));
    client.send(Message::text(ClientMessage::nack(&first.id, delay, None))).await.unwrap();
    let again = event(&mut client).await;
    assert_eq!(start.elapsed(), delay);
    assert_eq!((again.id, again.details.attempt), (first.id, Some(2)));
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_the_close_code_of_its_cause() {
    let fixture = Fixture::new().await;
    for (message, code) in [(Message::text("{"), 1007), (Message::binary("{}"), 1003)] {
        let (mut client, _session) = fixture.connect(1).await;
        client.send(message).await.unwrap();
        assert_eq!(close_code(&mut client).await, code);
    }
    let (mut client, _session) = fixture.connect(1).await;
    fixture.shutdown.cancel();
    assert_eq!(close_code(&mut client).await, 1012);
}

#[tokio::test(start_paused = true)]
async fn removing_an_app_closes_its_websockets() {
    let fixture = Fixture::new().await;
    let (mut client, _session) = fixture.connect(1).await;
    fixture.removed.cancel();
    let start = Instant::now();
    assert_eq!(close_code(&mut client).await, 1008);
    assert_eq!(start.elapsed(), PING);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_closes_its_websocket_an_unavailable_platform_does_not() {
    const REVALIDATED: Duration = Duration::from_secs(300);
    let remote = Remote(Arc::new(Mutex::new(Ok("my-bot".into()))));
    let identity = Arc::new(Cached::new(remote.clone()));
    let fixture = Fixture::with_identity(identity, CancellationToken::new()).await;
    for refusal in [Err(IdentityError::Refused), Ok("another-bot".into())] {
        remote.answer_with(Err(IdentityError::Unavailable(Arc::new(std::io::Error::other("down")))));
        let (mut client, session) = fixture.connect(1).await;
        for _ in 0..60 {
            assert!(matches!(client.next().await, Some(Ok(Message::Ping(_)))));
            client.flush().await.unwrap();
        }
        remote.answer_with(Ok("my-bot".into()));
        for _ in 0..60 {
            assert!(matches!(client.next().await, Some(Ok(Message::Ping(_)))));
            client.flush().await.unwrap();
        }
        assert!(!session.is_finished());
        remote.answer_with(refusal);
        let revoked = Instant::now();
        assert_eq!(close_code(&mut client).await, 1008);
        assert!(revoked.elapsed() <= REVALIDATED + PING, "{:?}", revoked.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_tap_that_answers_pings_stays_connected() {
    let fixture = Fixture::new().await;
    let (mut client, session) = fixture.tap_through(64 << 10).await;
    for _ in 0..10 {
        assert!(matches!(client.next().await, Some(Ok(Message::Ping(_)))));
        client.flush().await.unwrap();
    }
    assert!(!session.is_finished());
    fixture.append("{}").await;
    let shown = event(&mut client).await;
    assert_eq!((shown.body, shown.details.attempt), ("{}".into(), Some(0)));
    assert_eq!(fixture.leased().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_tap_is_closed_and_frees_its_slot() {
    let fixture = Fixture::new().await;
    let mut taps = Vec::new();
    while let Ok(tap) = fixture.proxy.tap(&fixture.app).await {
        taps.push(tap);
    }
    taps.pop();
    let (_client, session) = fixture.tap_through(64 << 10).await;
    assert!(fixture.proxy.tap(&fixture.app).await.is_err());
    // It reads nothing, so it answers no ping.
    let start = Instant::now();
    session.await.unwrap();
    assert!((IDLE..IDLE + PING).contains(&start.elapsed()), "{:?}", start.elapsed());
    drop(fixture.proxy.tap(&fixture.app).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_slow_tap_gets_a_gap_message_for_missed_events() {
    const SENT: u64 = 1000;
    let fixture = Fixture::new().await;
    let (mut client, _session) = fixture.tap_through(256).await;
    for _ in 0..SENT {
        fixture.append("{}").await;
        // The session sends what it can.
        tokio::task::yield_now().await;
    }
    let (mut shown, mut missed) = (0, 0);
    while shown + missed < SENT {
        match server_message(&mut client).await {
            ServerMessage::Event(_) => shown += 1,
            ServerMessage::Gap { missed: more } => missed += more,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(shown + missed, SENT);
    assert!(shown > 0 && missed > 0, "{shown} shown, {missed} missed");
    fixture.append("[]").await;
    assert_eq!(event(&mut client).await.body, "[]");
}

#[tokio::test(start_paused = true)]
async fn a_tap_ends_with_the_close_code_of_its_cause() {
    let fixture = Fixture::new().await;
    for (message, code) in [(Message::text("{"), 1007), (Message::binary("{}"), 1003)] {
        let (mut client, _session) = fixture.tap_through(1024).await;
        client.send(message).await.unwrap();
        assert_eq!(close_code(&mut client).await, code);
    }
    let (mut client, _session) = fixture.tap_through(1024).await;
    let start = Instant::now();
    fixture.removed.cancel();
    assert_eq!(close_code(&mut client).await, 1008);
    assert_eq!(start.elapsed(), PING);
    let (mut client, _session) = fixture.tap_through(1024).await;
    fixture.shutdown.cancel();
    assert_eq!(close_code(&mut client).await, 1012);
}

/// Sends pings and reads nothing, until the server reads no more of them.
async fn flood_with_pings(client: &mut Client) -> usize {
    const FAR_TOO_MANY: usize = 10_000;
    let mut sent = 0;
    let flood = async {
        while sent < FAR_TOO_MANY {
            client.send(Message::Ping(vec![b'x'; 125].into())).await.unwrap();
            sent += 1;
        }
    };
    timeout(Duration::from_secs(1), flood).await.expect_err("the server reads all there is");
    sent
}

#[tokio::test(start_paused = true)]
async fn a_client_that_pings_without_reading_is_throttled_then_closed_with_1008() {
    const PIPE: usize = 256;
    let fixture = Fixture::new().await;
    for is_tap in [false, true] {
        let (mut client, session) =
            if is_tap { fixture.tap_through(PIPE).await } else { fixture.connect_through(1, PIPE).await };
        let start = Instant::now();
        let sent = flood_with_pings(&mut client).await;
        assert!(sent < 64, "{sent} pings were read");
        tokio::time::sleep_until(start + Duration::from_secs(29)).await;
        assert!(!session.is_finished());
        tokio::time::sleep_until(start + Duration::from_secs(30)).await;
        assert_eq!(close_code(&mut client).await, 1008);
        assert!(start.elapsed() < Duration::from_secs(32), "{:?}", start.elapsed());
        session.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_pings_and_reads_stays_connected() {
    let fixture = Fixture::new().await;
    for is_tap in [false, true] {
        let (mut client, session) =
            if is_tap { fixture.tap_through(256).await } else { fixture.connect_through(1, 256).await };
        for _ in 0..1000 {
            client.send(Message::Ping(vec![b'x'; 125].into())).await.unwrap();
            assert!(matches!(client.next().await, Some(Ok(Message::Pong(_)))));
        }
        assert!(!session.is_finished());
    }
}

/// Reads one message at this rate a second.
async fn read_slowly(pipe: &mut DuplexStream, rate: usize) {
    const LONG_HEADER: usize = 10;
    let mut header = [0; LONG_HEADER];
    pipe.read_exact(&mut header).await.unwrap();
    assert_eq!(header[..2], [0x81, 127], "one text frame of more than 64 KiB");
    let mut left = usize::try_from(u64::from_be_bytes(header[2..].try_into().unwrap())).unwrap();
    let mut buffer = vec![0; rate];
    while left > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let wanted = rate.min(left);
        let read = timeout(IDLE, pipe.read_exact(&mut buffer[..wanted])).await;
        read.expect("the server goes on sending").unwrap();
        left -= wanted;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_minutes_for_a_large_event_stays_connected() {
    const SIZE: usize = 8 << 20;
    const RATE: usize = 16 << 10;
    let fixture = Fixture::new().await;
    let large: &'static str = Box::leak(format!("[\"{}\"]", "x".repeat(SIZE)).into_boxed_str());
    for is_tap in [false, true] {
        let (ours, mut pipe) = duplex(64 << 10);
        let config = SessionConfig { v2: false, ..fixture.config(1) };
        let socket = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let session = fixture.start(is_tap, config, socket).await;
        fixture.append(large).await;
        let start = Instant::now();
        read_slowly(&mut pipe, RATE).await;
        assert!(start.elapsed() > IDLE * 8, "{:?}", start.elapsed());
        // It is heard again from here on: a lease that ended meanwhile is given again.
        let mut client = WebSocketStream::from_raw_socket(pipe, Role::Client, None).await;
        if !is_tap {
            let again = event(&mut client).await;
            client.send(Message::text(ClientMessage::ack(&[again.id]))).await.unwrap();
        }
        for _ in 0..2 * IDLE.as_secs() / PING.as_secs() {
            assert!(matches!(client.next().await, Some(Ok(Message::Ping(_)))));
            client.flush().await.unwrap();
        }
        assert!(!session.is_finished());
        assert_eq!(fixture.stored().await, u64::from(is_tap));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_below_the_minimum_rate_is_closed_and_its_event_is_released() {
    const SIZE: u64 = 1 << 20;
    let fixture = Fixture::new().await;
    let large: &'static str = Box::leak(format!("[\"{}\"]", "x".repeat(1 << 20)).into_boxed_str());
    let (ours, mut pipe) = duplex(64 << 10);
    let config = SessionConfig { v2: false, ..fixture.config(1) };
    let socket = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
    let mut session = fixture.start(false, config, socket).await;
    fixture.append(large).await;
    let start = Instant::now();
    tokio::select! {
        () = read_slowly(&mut pipe, 4 << 10) => panic!("it took {:?}", start.elapsed()),
        ended = &mut session => ended.unwrap(),
    }
    let allowed = Duration::from_secs(30 + SIZE / (16 << 10));
    assert!((allowed..allowed + 2 * PING).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(fixture.leased().await, 0);
}

#[tokio::test]
async fn an_event_larger_than_a_frame_is_one_message_in_fragments() {
    let fixture = Fixture::new().await;
    let body: &'static str =
        Box::leak(format!("[\"{}\"]", "ä".repeat(websocket::MAX_FRAME / 2)).into_boxed_str());
    fixture.append(body).await;
    let (mut client, _session) = fixture.connect(1).await;
    assert!(event(&mut client).await.body == body);
}
