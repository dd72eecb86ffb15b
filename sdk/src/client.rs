//! The public handle: the operations of one app on one server.

mod consumer;
mod sources;

use std::fmt;

pub use self::consumer::Consumer;

use wwproxy_protocol::{
    AppId, ConsumerName, Secret,
    api::{
        AckRequest, AckResponse, LeasedEvents, MAX_LEASE_WAIT, MAX_RECEIPTS, Receipt, Status, decode_lease,
        decode_poll, path,
    },
    message::{EventDetails, EventMessage},
};

use crate::{
    Error, ErrorKind, HandlerError, LeaseOptions, ListenOptions, Run, Subscription, Tap,
    api_client::ApiClient,
    response::{read_json, read_text, unreadable},
};

/// The largest response without events, in bytes. A response to an ack request may list every receipt as stale.
const MAX_SMALL_RESPONSE_BYTES: usize = 4 << 20;

/// The most receipts with a reason in one request: as JSON a reason may have 6 KiB, and a request has at most 1 MiB.
const MAX_REASONS: usize = 100;

/// A handle to one app on one server: registers the app and receives its events.
///
/// Cheap to clone; clones share connections and the token. `Debug` redacts secret and token.
/// After a 401 a request is retried once with a fresh token. No other request is retried; the streams
/// ([`listen`](Self::listen), [`run`](Self::run), [`tap`](Self::tap)) reconnect. Every method returns an [`Error`] with a
/// [`kind`](Error::kind) to match on.
///
/// ```no_run
/// use std::time::Duration;
/// use wwproxy_sdk::{Client, LeaseOptions};
///
/// # async fn run() -> Result<(), wwproxy_sdk::Error> {
/// let client = Client::builder("https://proxy.example.com").app_id("my.bot").token("…").build()?;
/// let leased = client.lease(LeaseOptions::new().max(10).wait(Duration::from_secs(20))).await?;
/// for event in leased.events {
///     println!("{}: {} bytes", event.id, event.body.len());
///     client.ack([event.receipt]).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    api: ApiClient,
}

impl Client {
    pub(crate) fn new(api: ApiClient) -> Self {
        Self { api }
    }

    /// The app's id.
    #[must_use]
    pub fn app_id(&self) -> &AppId {
        self.api.app_id()
    }

    /// The server's address.
    #[must_use]
    pub fn server(&self) -> &str {
        self.api.server().as_str()
    }

    /// Registers the app with its webhook secret, or replaces the secret. From now on the server accepts its webhooks.
    pub async fn register(&self, secret: &Secret) -> Result<(), Error> {
        let body = serde_json::json!({"secret": secret.expose()});
        let url = self.api.url(&path::webhooks(self.app_id()))?;
        self.api.send(|http| http.put(url.clone()).json(&body)).await.map(drop)
    }

    /// Deletes the app's registration and its stored events. Succeeds if there is none.
    pub async fn unregister(&self) -> Result<(), Error> {
        let url = self.api.url(&path::webhooks(self.app_id()))?;
        self.api.send(|http| http.delete(url.clone())).await.map(drop)
    }

    /// Fetches and deletes stored events, at most `max` (`None`: the server's limit), in order of arrival. Call it again until it
    /// returns none. Delivery is at most once: if this program may fail, use [`lease`](Self::lease) instead.
    ///
    /// A poll has no metadata, so each event has its id and body only. It does not say either how a body is encoded: a string is
    /// taken as text, and exactly `{"encoding":"base64","data":"…"}` as other bytes. A JSON body of one of these forms, or one with
    /// a byte order mark, is not returned byte for byte; with `lease` it is.
    pub async fn drain(&self, max: impl Into<Option<u32>>) -> Result<Vec<EventMessage>, Error> {
        let mut url = self.api.url(&path::webhooks(self.app_id()))?;
        if let Some(max) = max.into() {
            url.query_pairs_mut().append_pair("max", &max.to_string());
        }
        let response = self.api.send(|http| http.get(url.clone())).await?;
        let text = read_text(response, self.api.max_response_bytes()).await?;
        let events = decode_poll(&text).map_err(unreadable)?;
        let event = |(id, body)| EventMessage { id, body, details: EventDetails::default() };
        Ok(events.into_iter().map(event).collect())
    }

    /// Leases stored events. Events that are not [acknowledged](Self::ack) before their lease expires are redelivered.
    /// Waits for the first event as long as the options say.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol): the response is not that of a wwproxy server. An event that this client
    /// cannot decode is no error: see [`LeasedEvents::undecodable`].
    pub async fn lease(&self, options: LeaseOptions) -> Result<LeasedEvents, Error> {
        self.lease_for(None, options).await
    }

    async fn lease_for(
        &self,
        consumer: Option<ConsumerName>,
        options: LeaseOptions,
    ) -> Result<LeasedEvents, Error> {
        let (url, body) = (self.api.url(&path::lease(self.app_id()))?, options.request(consumer));
        let timeout = self.api.request_timeout() + options.wait.min(MAX_LEASE_WAIT);
        let response = self.api.send(|http| http.post(url.clone()).timeout(timeout).json(&body)).await?;
        let text = read_text(response, self.api.max_response_bytes()).await?;
        decode_lease(&text).map_err(unreadable)
    }

    /// Acknowledges leased events: they are not delivered again. Receipts of expired leases are returned as
    /// [stale](AckResponse::stale); their events are redelivered.
    pub async fn ack(&self, receipts: impl IntoIterator<Item = Receipt>) -> Result<AckResponse, Error> {
        self.settle(&AckRequest { ack: receipts.into_iter().collect(), ..AckRequest::default() }).await
    }

    /// Releases leased events: the server redelivers them at once.
    pub async fn release(&self, receipts: impl IntoIterator<Item = Receipt>) -> Result<AckResponse, Error> {
        let release = receipts.into_iter().map(Into::into).collect();
        self.settle(&AckRequest { release, ..AckRequest::default() }).await
    }

    /// Settles leases: acknowledges, rejects, releases and extends in one request, or in several for more than 1000 receipts (100
    /// with reasons). After an error, or if the future is dropped, some of them may be settled.
    pub async fn settle(&self, receipts: &AckRequest) -> Result<AckResponse, Error> {
        let AckRequest { consumer, ack, reject, release, extend } = receipts;
        let has_reasons = reject.iter().any(|rejection| rejection.reason.is_some())
            || release.iter().any(|release| release.reason.is_some());
        let size = if has_reasons { MAX_REASONS } else { MAX_RECEIPTS };
        if receipts.receipts() <= size {
            return self.settle_batch(receipts).await;
        }
        let empty = || AckRequest { consumer: consumer.clone(), ..AckRequest::default() };
        let acks = ack.chunks(MAX_RECEIPTS).map(|ack| AckRequest { ack: ack.to_vec(), ..empty() });
        let rejects = reject.chunks(size).map(|reject| AckRequest { reject: reject.to_vec(), ..empty() });
        let releases =
            release.chunks(size).map(|release| AckRequest { release: release.to_vec(), ..empty() });
        let extensions = extend.chunks(MAX_RECEIPTS);
        let extensions = extensions.map(|extend| AckRequest { extend: extend.to_vec(), ..empty() });
        let mut total = AckResponse::default();
        for request in acks.chain(rejects).chain(releases).chain(extensions) {
            let settled = self.settle_batch(&request).await?;
            total.acked += settled.acked;
            total.rejected += settled.rejected;
            total.released += settled.released;
            total.extended += settled.extended;
            total.stale.extend(settled.stale);
        }
        Ok(total)
    }

    async fn settle_batch(&self, receipts: &AckRequest) -> Result<AckResponse, Error> {
        let url = self.api.url(&path::ack(self.app_id()))?;
        let response = self.api.send(|http| http.post(url.clone()).json(receipts)).await?;
        read_json(response, MAX_SMALL_RESPONSE_BYTES).await
    }

    /// Returns the state of the app's registration, its consumers, and the events of `default`.
    pub async fn status(&self) -> Result<Status, Error> {
        let url = self.api.url(&path::status(self.app_id()))?;
        let response = self.api.send(|http| http.get(url.clone())).await?;
        read_json(response, MAX_SMALL_RESPONSE_BYTES).await
    }

    /// Returns a valid token: the configured one, or one fetched with the app's secret.
    pub async fn token(&self) -> Result<Secret, Error> {
        self.api.token().await
    }

    /// Returns the token endpoint: the configured one, or that of the server's metadata after it has issued a token. `None`
    /// before that, and with a configured token.
    pub async fn token_endpoint(&self) -> Option<String> {
        self.api.token_endpoint().await
    }

    /// Subscribes to the app's events over a websocket that reconnects automatically: see [`Subscription`]. Receives the events of
    /// the consumer `default`, or with [`ListenOptions::since`] those of an ephemeral consumer of its own.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use = "dropping the subscription ends it"]
    pub fn listen(&self, options: ListenOptions) -> Subscription {
        Subscription::start(self.api.clone(), None, options)
    }

    /// Calls the handler for each event. Acknowledges the event if the handler succeeds, and releases it for redelivery if it
    /// fails: see [`Run`]. The handler may borrow.
    ///
    /// # Panics
    /// When awaited outside a tokio runtime.
    pub fn run<'h, H, F>(&self, handler: H) -> Run<'h, H>
    where
        H: FnMut(EventMessage) -> F + Send + 'h,
        F: Future<Output = Result<(), HandlerError>> + Send + 'h,
    {
        Run::new(self.api.clone(), None, handler)
    }

    /// Watches the app's events read-only, over a websocket that reconnects automatically: see [`Tap`]. The window of the
    /// options is the prefetch window.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use = "dropping the tap ends it"]
    pub fn tap(&self, options: ListenOptions) -> Tap {
        Tap::start(self.api.clone(), options)
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

/// Explains the 404 of a path that every server with sources and consumers has.
fn explain_old_server(error: Error, unknown: &str) -> Error {
    if error.kind() != ErrorKind::NotRegistered {
        return error;
    }
    let message = format!("the server does not know {unknown}: it is too old, or this is not its address");
    error.with_kind(ErrorKind::Protocol, message)
}
