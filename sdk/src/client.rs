//! The handle to one app on one server, and its requests.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{RequestBuilder, Response, StatusCode, Url, header};
use serde::de::DeserializeOwned;
use wwproxy_protocol::{
    AppId, EventId, Secret,
    api::{
        AckRequest, AckResponse, LeasedEvent, MAX_LEASE_WAIT, MAX_RECEIPTS, Receipt, Status, decode_lease,
        decode_poll, path,
    },
    message::EventMessage,
};

use crate::{
    ClientBuilder, Error, ErrorKind, HandlerError, LeaseOptions, ListenOptions, Run, Subscription, Tap,
    address::{at, check_http, server_url},
    credentials::{Credentials, Given, bearer},
    failure::Failure,
    http::{self, Connector, Http},
};

/// The largest answer that carries no events, in bytes. An answer to acks may name every receipt as stale.
const MAX_SMALL_ANSWER_BYTES: usize = 4 << 20;

/// One app on one server: registers it, and fetches its events.
///
/// Cheap to clone; clones share connections and the token. `Debug` shows neither secret nor token.
/// A request that is refused with 401 is sent once more with a fresh token; nothing else is retried
/// by itself, except by [`listen`](Self::listen). Every method fails with an [`Error`] whose
/// [`kind`](Error::kind) says what kind of trouble it is.
///
/// ```no_run
/// use std::time::Duration;
/// use wwproxy_sdk::{Client, LeaseOptions};
///
/// # async fn run() -> Result<(), wwproxy_sdk::Error> {
/// let client = Client::builder("https://proxy.example.com").app_id("my.bot").token("…").build()?;
/// for event in client.lease(LeaseOptions::new().max(10).wait(Duration::from_secs(20))).await? {
///     println!("{}: {} bytes", event.id, event.body.len());
///     client.ack([event.receipt]).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: Http,
    server: Url,
    app_id: AppId,
    credentials: Credentials,
    request_timeout: Duration,
    max_answer_bytes: usize,
}

/// What a builder collected.
pub(crate) struct Settings {
    pub(crate) server: String,
    pub(crate) app_id: AppId,
    pub(crate) given: Given,
    pub(crate) token_endpoint: Option<String>,
    pub(crate) allow_http: bool,
    pub(crate) connector: Connector,
    pub(crate) request_timeout: Duration,
    pub(crate) max_answer_bytes: usize,
}

impl Client {
    /// Starts a client of the server at this address, such as `https://proxy.example.com`.
    pub fn builder(server: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(server.into())
    }

    pub(crate) fn new(settings: Settings) -> Result<Self, Error> {
        let server = server_url(&settings.server)?;
        check_http(&server, settings.allow_http, "server's address")?;
        let http = settings.connector.client(server.scheme() == "https")?;
        let credentials = Credentials::new(
            server.clone(),
            settings.app_id.clone(),
            settings.given,
            settings.token_endpoint.as_deref(),
            settings.allow_http,
            settings.request_timeout,
        )?;
        Ok(Self(Arc::new(Inner {
            http,
            server,
            app_id: settings.app_id,
            credentials,
            request_timeout: settings.request_timeout,
            max_answer_bytes: settings.max_answer_bytes,
        })))
    }

    /// The app.
    #[must_use]
    pub fn app_id(&self) -> &AppId {
        &self.0.app_id
    }

    /// The server's address.
    #[must_use]
    pub fn server(&self) -> &str {
        self.0.server.as_str()
    }

    /// Registers the app's webhook secret, in place of any before: from now on its webhooks are taken.
    pub async fn register(&self, secret: &Secret) -> Result<(), Error> {
        let body = serde_json::json!({"secret": secret.expose()});
        let url = self.url(&path::webhooks(self.app_id()))?;
        self.send(|http| http.put(url.clone()).json(&body)).await.map(drop)
    }

    /// Ends the app's registration and deletes its stored events. No error if there was none.
    pub async fn unregister(&self) -> Result<(), Error> {
        let url = self.url(&path::webhooks(self.app_id()))?;
        self.send(|http| http.delete(url.clone())).await.map(drop)
    }

    /// Takes stored events, at most `max` (`None`: as many as the server gives at once), in order of arrival, with the bytes
    /// that their sender signed. They are gone from the server then; call again until none come. To lose nothing when
    /// this program fails, [`lease`](Self::lease) instead.
    pub async fn drain(&self, max: impl Into<Option<u32>>) -> Result<Vec<(EventId, Bytes)>, Error> {
        let mut url = self.url(&path::webhooks(self.app_id()))?;
        if let Some(max) = max.into() {
            url.query_pairs_mut().append_pair("max", &max.to_string());
        }
        let response = self.send(|http| http.get(url.clone())).await?;
        let text = read_text(response, self.0.max_answer_bytes).await?;
        decode_poll(&text).map_err(unreadable)
    }

    /// Takes stored events for a time: who does not [`ack`](Self::ack) them before their lease ends gets them again.
    /// Waits for a first event as long as the options say.
    pub async fn lease(&self, options: LeaseOptions) -> Result<Vec<LeasedEvent>, Error> {
        let (url, body) = (self.url(&path::lease(self.app_id()))?, options.request());
        let timeout = self.0.request_timeout + options.wait.min(MAX_LEASE_WAIT);
        let response = self.send(|http| http.post(url.clone()).timeout(timeout).json(&body)).await?;
        let text = read_text(response, self.0.max_answer_bytes).await?;
        decode_lease(&text).map_err(unreadable)
    }

    /// Deletes leased events. Receipts whose lease has ended come back as [stale](AckResponse::stale): their events go out again.
    pub async fn ack(&self, receipts: impl IntoIterator<Item = Receipt>) -> Result<AckResponse, Error> {
        self.settle(&AckRequest { ack: receipts.into_iter().collect(), release: Vec::new() }).await
    }

    /// Hands leased events back at once.
    pub async fn release(&self, receipts: impl IntoIterator<Item = Receipt>) -> Result<AckResponse, Error> {
        self.settle(&AckRequest { ack: Vec::new(), release: receipts.into_iter().collect() }).await
    }

    /// [`ack`](Self::ack) and [`release`](Self::release) in one request, or in several if there are more than
    /// 1000 receipts. After an error some of them may be settled.
    pub async fn settle(&self, receipts: &AckRequest) -> Result<AckResponse, Error> {
        if receipts.ack.len() + receipts.release.len() <= MAX_RECEIPTS {
            return self.settle_at_once(receipts).await;
        }
        let acks = receipts.ack.chunks(MAX_RECEIPTS);
        let acks = acks.map(|acks| AckRequest { ack: acks.to_vec(), release: Vec::new() });
        let releases = receipts.release.chunks(MAX_RECEIPTS);
        let releases = releases.map(|releases| AckRequest { ack: Vec::new(), release: releases.to_vec() });
        let mut total = AckResponse::default();
        for request in acks.chain(releases) {
            let settled = self.settle_at_once(&request).await?;
            total.acked += settled.acked;
            total.released += settled.released;
            total.stale.extend(settled.stale);
        }
        Ok(total)
    }

    async fn settle_at_once(&self, receipts: &AckRequest) -> Result<AckResponse, Error> {
        let url = self.url(&path::ack(self.app_id()))?;
        let response = self.send(|http| http.post(url.clone()).json(receipts)).await?;
        read_json(response, MAX_SMALL_ANSWER_BYTES).await
    }

    /// The state of the app's registration and queue.
    pub async fn status(&self) -> Result<Status, Error> {
        let url = self.url(&path::status(self.app_id()))?;
        let response = self.send(|http| http.get(url.clone())).await?;
        read_json(response, MAX_SMALL_ANSWER_BYTES).await
    }

    /// A token that is good for a while: the ready one, or one fetched with the app's secret.
    pub async fn token(&self) -> Result<Secret, Error> {
        self.0.credentials.token(&self.0.http).await
    }

    /// Where tokens are fetched: the endpoint that was given, or that of the server's metadata once it has given a token. `None`
    /// before that, and with a ready token.
    pub async fn token_endpoint(&self) -> Option<String> {
        self.0.credentials.endpoint().await
    }

    /// Listens over a websocket that reconnects by itself: see [`Subscription`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use = "dropping the subscription ends it"]
    pub fn listen(&self, options: ListenOptions) -> Subscription {
        Subscription::start(self.clone(), options)
    }

    /// Calls the handler for each event, acknowledges what it has handled, and hands back what it has not: see [`Run`]. The
    /// handler needs to live as long as the run only, and may borrow.
    ///
    /// # Panics
    /// The run, outside of a tokio runtime.
    pub fn run<'h, H, F>(&self, handler: H) -> Run<'h, H>
    where
        H: FnMut(EventMessage) -> F + Send + 'h,
        F: Future<Output = Result<(), HandlerError>> + Send + 'h,
    {
        Run::new(self.clone(), handler)
    }

    /// Watches the app's events without taking any, over a websocket that reconnects by itself: see [`Tap`]. The window of the
    /// options is how many are read ahead.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use = "dropping the tap ends it"]
    pub fn tap(&self, options: ListenOptions) -> Tap {
        Tap::start(self.clone(), options)
    }

    pub(crate) fn http(&self) -> &Http {
        &self.0.http
    }

    pub(crate) fn url(&self, path: &str) -> Result<Url, Error> {
        at(&self.0.server, path)
    }

    /// Sends a request with the app's token, again with a fresh one after a 401. Only a success is no error.
    pub(crate) async fn send(
        &self,
        request: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let Inner { http, credentials, request_timeout, .. } = &*self.0;
        let send = async |token: &Secret| {
            let (client, built) = request(&http.client).build_split();
            let mut built = built.map_err(http::unsendable)?;
            // Bounds the whole answer, unless the request has a timeout of its own.
            built.timeout_mut().get_or_insert(*request_timeout);
            built.headers_mut().insert(header::AUTHORIZATION, bearer(token)?);
            http.send(RequestBuilder::from_parts(client, built)).await
        };
        let token = credentials.token(http).await?;
        let mut response = send(&token).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let Some(token) = credentials.renewed(http, &token).await? else {
                return Err(Error::answer(response).await);
            };
            response = send(&token).await?;
        }
        let fine = response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if fine { Ok(response) } else { Err(Error::answer(response).await) }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.server())
            .field("app_id", self.app_id())
            .finish_non_exhaustive()
    }
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Protocol, "the answer is not a wwproxy server's; check the server's address")
        .because(error)
}

/// The body of an answer, if it is no longer than `limit` bytes.
pub(crate) async fn read_body(mut response: Response, limit: usize) -> Result<Vec<u8>, Error> {
    let url = response.url().clone();
    let mut body = Vec::new();
    let failed = |error| Error::transport(&Failure::of(&error, &url), error, &url);
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > limit {
            return Err(Error::new(
                ErrorKind::Protocol,
                format!("the answer is larger than {limit} bytes; ask for less at once"),
            ));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

async fn read_text(response: Response, limit: usize) -> Result<String, Error> {
    String::from_utf8(read_body(response, limit).await?).map_err(|error| unreadable(error.utf8_error()))
}

pub(crate) async fn read_json<T: DeserializeOwned>(response: Response, limit: usize) -> Result<T, Error> {
    serde_json::from_slice(&read_body(response, limit).await?).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_credentials() {
        let builder = Client::builder("https://h").app_id("bot");
        for builder in [builder.clone().app_secret("hunter2"), builder.token("hunter2")] {
            assert!(!format!("{builder:?}").contains("hunter2"));
            assert!(!format!("{:?}", builder.build().unwrap()).contains("hunter2"));
        }
    }

    #[test]
    fn http_is_for_this_machine_unless_it_is_allowed() {
        let builder = |server: &str| Client::builder(server).app_id("bot").token("t");
        for here in ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:1", "https://proxy.example"] {
            assert!(builder(here).build().is_ok(), "{here}");
        }
        for there in ["http://proxy.example", "http://10.0.0.1:8080", "http://localhost.example"] {
            let error = builder(there).build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{there}");
            assert!(error.to_string().contains("--allow-http"), "{error}");
            assert!(builder(there).allow_http(true).build().is_ok(), "{there}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let text = |builder: ClientBuilder| builder.build().unwrap_err().to_string();
        assert!(text(Client::builder("https://h").token("t")).contains("app id"));
        assert!(text(Client::builder("https://h").app_id("bot")).contains("secret or a token"));
        assert!(text(Client::builder("h").app_id("bot").token("t")).contains("https://"));
    }
}
