//! What a caller may choose: of a client, of a lease, of a subscription.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use wwproxy_protocol::{
    AppId, Secret,
    api::{LeaseRequest, MAX_WINDOW},
};

use crate::{
    Client, Error, ErrorKind, HttpOptions, State, client::Settings, credentials::Given, http::Connector,
};

/// How long a request may take, from its start to the last byte of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer of a poll or a lease, in bytes.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// The largest websocket message, in bytes: an 8 MiB body with its headers has room many times.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// The default of [`ListenOptions::max_prefetch_bytes`].
const MAX_PREFETCH_BYTES: usize = 16 << 20;
/// The range of [`ListenOptions::max_prefetch_bytes`].
const PREFETCH_BYTES_RANGE: RangeInclusive<usize> = 64 * 1024..=1 << 30;
/// How long a websocket may be silent before it counts as dead.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The shortest idle timeout: below it a slow network would look like a dead one.
const MIN_IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Makes a [`Client`].
///
/// ```
/// use std::time::Duration;
/// use wwproxy_sdk::Client;
///
/// let client = Client::builder("https://proxy.example.com")
///     .app_id("my.bot")
///     .app_secret("the app's secret")
///     .request_timeout(Duration::from_secs(10))
///     .build()?;
/// assert_eq!(client.app_id().as_str(), "my.bot");
/// # Ok::<(), wwproxy_sdk::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct ClientBuilder {
    server: String,
    app_id: String,
    credentials: Option<Given>,
    token_endpoint: Option<String>,
    allow_http: bool,
    connector: Connector,
    request_timeout: Duration,
    max_answer_bytes: usize,
}

impl ClientBuilder {
    pub(crate) fn new(server: String) -> Self {
        Self {
            server,
            app_id: String::new(),
            credentials: None,
            token_endpoint: None,
            allow_http: false,
            connector: Connector::Options(HttpOptions::new()),
            request_timeout: REQUEST_TIMEOUT,
            max_answer_bytes: MAX_ANSWER_BYTES,
        }
    }

    /// The app, by its id: 1 to 128 of `A-Z a-z 0-9 . _ -`. Required.
    pub fn app_id(mut self, app_id: impl Into<String>) -> Self {
        self.app_id = app_id.into();
        self
    }

    /// The app's secret, which tokens are fetched with. This or [`token`](Self::token) is required; the later call counts.
    pub fn app_secret(mut self, secret: impl Into<String>) -> Self {
        self.credentials = Some(Given::AppSecret(Secret::new(secret)));
        self
    }

    /// A ready token, used as it is and never renewed.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credentials = Some(Given::Token(Secret::new(token)));
        self
    }

    /// Where tokens are fetched, instead of where the server's metadata (RFC 8414) says. Needed if that is another origin than the
    /// server's, as with `--identity watsonwork`: the app's secret never goes to another host because of the metadata alone.
    pub fn token_endpoint(mut self, url: impl Into<String>) -> Self {
        self.token_endpoint = Some(url.into());
        self
    }

    /// Allows a server's address with `http://` whose host is not loopback: everyone on the way can read credentials and events.
    pub fn allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    /// How connections are made: which certificates they trust, which proxy they go through.
    pub fn http(mut self, options: HttpOptions) -> Self {
        self.connector = Connector::Options(options);
        self
    }

    /// A ready HTTP client to use instead of one of this crate's own; this or [`http`](Self::http), the later call counts.
    /// It must speak HTTP/1.1 only (`http1_only`), since a websocket begins with it, and follow no redirects
    /// (`redirect::Policy::none()`), since a token must go nowhere else; [`HttpOptions::client_builder`] gives one that does.
    #[cfg(feature = "reqwest")]
    pub fn http_client(mut self, client: reqwest::Client) -> Self {
        self.connector = Connector::Client(client);
        self
    }

    /// How long a request may take, to the last byte of its answer: 30 s where not said. A lease has its `wait` on top.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The largest answer of a poll or a lease, in bytes: 256 MiB where not said.
    pub fn max_answer_bytes(mut self, bytes: usize) -> Self {
        self.max_answer_bytes = bytes;
        self
    }

    /// The client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: the address or the id is none, or there are no credentials.
    pub fn build(self) -> Result<Client, Error> {
        let app_id: AppId = self.app_id.parse().map_err(|invalid| {
            Error::new(ErrorKind::Usage, "the app id cannot be used; give the one that the platform shows")
                .because(invalid)
        })?;
        let given = self.credentials.ok_or_else(|| {
            Error::new(ErrorKind::Usage, "there are no credentials; give the app's secret or a token")
        })?;
        Client::new(Settings {
            server: self.server,
            app_id,
            given,
            token_endpoint: self.token_endpoint,
            allow_http: self.allow_http,
            connector: self.connector,
            request_timeout: self.request_timeout,
            max_answer_bytes: self.max_answer_bytes,
        })
    }
}

/// How events are leased: see [`Client::lease`]. Where nothing is said the server decides.
///
/// ```
/// use std::time::Duration;
/// use wwproxy_sdk::LeaseOptions;
///
/// let patient = LeaseOptions::new().max(10).wait(Duration::from_secs(20));
/// # let _ = patient;
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct LeaseOptions {
    pub(crate) max: Option<u32>,
    pub(crate) wait: Duration,
    pub(crate) lease: Option<Duration>,
}

impl LeaseOptions {
    /// The server's choices: does not wait.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many events at most.
    pub fn max(mut self, max: u32) -> Self {
        self.max = Some(max);
        self
    }

    /// How long to wait for a first event. The server cuts it to 50 s.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// How long nobody else gets the events.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    pub(crate) fn request(&self) -> LeaseRequest {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        LeaseRequest { max: self.max, wait_ms: Some(ms(self.wait)), lease_ms: self.lease.map(ms) }
    }
}

/// How a subscription listens: see [`Client::listen`].
///
/// ```
/// use wwproxy_sdk::{ListenOptions, State};
///
/// let options = ListenOptions::new().window(1).on_state(|state| match state {
///     State::Connected { .. } => eprintln!("connected"),
///     State::Reconnecting { error, delay, .. } => eprintln!("{error}; next try in {delay:?}"),
///     _ => {}
/// });
/// # let _ = options;
/// ```
#[derive(Clone)]
#[must_use]
pub struct ListenOptions {
    pub(crate) window: Option<u32>,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_message_bytes: usize,
    pub(crate) max_prefetch_bytes: usize,
    pub(crate) max_disconnected: Option<Duration>,
    pub(crate) on_state: Arc<dyn Fn(&State) + Send + Sync>,
}

impl ListenOptions {
    /// The usual choices.
    pub fn new() -> Self {
        Self {
            window: None,
            idle_timeout: IDLE_TIMEOUT,
            max_message_bytes: MAX_MESSAGE_BYTES,
            max_prefetch_bytes: MAX_PREFETCH_BYTES,
            max_disconnected: None,
            on_state: Arc::new(|_| {}),
        }
    }

    /// How many events are outstanding at once, 1 to 1024 (cut to that): 64 where not said. With 1 they come strictly one after
    /// the other, each once the one before is acknowledged.
    pub fn window(mut self, window: u32) -> Self {
        self.window = Some(window.clamp(1, MAX_WINDOW));
        self
    }

    /// How long a connection may be silent before it is dropped for a new one: 60 s where not said, 3 s at least. A server
    /// that lives is heard three times in this time.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout.max(MIN_IDLE_TIMEOUT);
        self
    }

    /// The largest message, in bytes: 64 MiB where not said. A larger one ends the stream with [`ErrorKind::Protocol`].
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// The prefetch limit in bytes: nothing is read from the websocket while events of this many bytes, counted as their
    /// messages, have not been taken from the stream. One message may exceed it, so any event up to
    /// [`max_message_bytes`](Self::max_message_bytes) gets through. 16 MiB by default, 64 KiB to 1 GiB (clamped).
    ///
    /// Reading pauses at the limit, and a server closes a connection that is not read for 30 s. If events are large and each
    /// takes long to handle, choose a [`window`](Self::window) of them that fits into the limit.
    pub fn max_prefetch_bytes(mut self, bytes: usize) -> Self {
        self.max_prefetch_bytes = bytes.clamp(*PREFETCH_BYTES_RANGE.start(), *PREFETCH_BYTES_RANGE.end());
        self
    }

    /// How long to go on without a connection, from the start or from the loss of the last one: for ever where not said. After
    /// that the stream ends with the last error.
    pub fn max_disconnected(mut self, time: Duration) -> Self {
        self.max_disconnected = Some(time);
        self
    }

    /// Called at each change of the connection, in the task that reads it: it must not block.
    pub fn on_state(mut self, callback: impl Fn(&State) + Send + Sync + 'static) -> Self {
        self.on_state = Arc::new(callback);
        self
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ListenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenOptions")
            .field("window", &self.window)
            .field("idle_timeout", &self.idle_timeout)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("max_prefetch_bytes", &self.max_prefetch_bytes)
            .field("max_disconnected", &self.max_disconnected)
            .finish_non_exhaustive()
    }
}
