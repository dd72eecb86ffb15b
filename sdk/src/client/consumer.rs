//! The consumers of an app.

use reqwest::{RequestBuilder, Response, StatusCode};
use wwproxy_protocol::{
    ConsumerName, ConsumerSettings, Start,
    api::{AckRequest, AckResponse, ConsumerStatus, Consumers, LeasedEvents, Receipt, SeekRequest, path},
    message::EventMessage,
};

use super::{Client, MAX_SMALL_RESPONSE_BYTES, explain_old_server};
use crate::{
    Error, ErrorKind, HandlerError, LeaseOptions, ListenOptions, Run, Subscription, response::read_json,
};

impl Client {
    /// A handle to a consumer of the app: a named, durable position in its events, with a filter. Sends nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: the name is not 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub fn consumer(&self, name: &str) -> Result<Consumer, Error> {
        let name: ConsumerName =
            name.parse().map_err(|error| Error::new(ErrorKind::Usage, format!("{error}")))?;
        Ok(Consumer { client: self.clone(), name })
    }

    /// Returns the app's consumers, sorted by name.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: the server is older than consumers.
    pub async fn consumers(&self) -> Result<Vec<ConsumerStatus>, Error> {
        let url = self.api.url(&path::consumers(self.app_id()))?;
        let response = self.api.send(|http| http.get(url.clone())).await.map_err(old_server)?;
        let consumers: Consumers = read_json(response, MAX_SMALL_RESPONSE_BYTES).await?;
        Ok(consumers.consumers)
    }
}

/// A handle to one consumer of an app: see [`Client::consumer`]. Cheap to clone.
///
/// Each consumer receives every event of the app that matches its filter, whatever other consumers do. Clients that use the same
/// consumer share its events. If a method is dropped before it completes, the server may have carried it out or not.
///
/// ```no_run
/// use futures_util::StreamExt;
/// use wwproxy_sdk::{Client, ConsumerSettings, Error, ListenOptions, Start};
///
/// async fn audit(client: &Client) -> Result<(), Error> {
///     let audit = client.consumer("audit")?;
///     let settings = ConsumerSettings { start: Start::All, ..ConsumerSettings::default() };
///     audit.create(&settings).await?;
///     let mut events = audit.listen(ListenOptions::new());
///     while let Some(event) = events.next().await {
///         let event = event?;
///         println!("{}", event.id());
///         event.ack().await?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Consumer {
    client: Client,
    name: ConsumerName,
}

impl Consumer {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &ConsumerName {
        &self.name
    }

    /// Creates the consumer, or changes `max_attempts`, `overflow` and `idle_expiry` of an existing one. Returns whether it is new.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`], and [`Error::detail`] says why: the settings are invalid; the consumer exists with other types,
    /// sources or start, which cannot change; or the app has 32 consumers. [`ErrorKind::NotRegistered`]: the event of
    /// [`Start::After`] is not stored. [`ErrorKind::Protocol`]: the server is older than consumers.
    pub async fn create(&self, settings: &ConsumerSettings) -> Result<bool, Error> {
        let put = |http: &reqwest::Client, url| http.put(url).json(settings);
        let path = path::consumer(self.client.app_id(), &self.name);
        let response = self.send(&path, put).await.map_err(as_the_server_says)?;
        Ok(response.status() == StatusCode::CREATED)
    }

    /// Returns the settings and the state of the consumer.
    ///
    /// # Errors
    /// [`ErrorKind::NotRegistered`]: the app has no such consumer. [`ErrorKind::Protocol`]: the server is older than consumers.
    pub async fn status(&self) -> Result<ConsumerStatus, Error> {
        let path = path::consumer(self.client.app_id(), &self.name);
        read_json(self.send(&path, reqwest::Client::get).await?, MAX_SMALL_RESPONSE_BYTES).await
    }

    /// Moves the consumer to another position. Its leases end; its dead events stay dead.
    ///
    /// # Errors
    /// As for [`status`](Self::status). [`ErrorKind::NotRegistered`] also if the event of [`Start::After`] is not stored.
    pub async fn seek(&self, to: impl Into<Start>) -> Result<(), Error> {
        let request = SeekRequest { to: to.into() };
        let path = path::seek(self.client.app_id(), &self.name);
        self.send(&path, |http, url| http.post(url).json(&request)).await.map(drop)
    }

    /// Deletes the consumer, and closes the connections of its clients. The events stay for other consumers. `default` cannot be
    /// deleted.
    ///
    /// # Errors
    /// As for [`status`](Self::status). [`ErrorKind::InvalidRequest`]: it is `default`.
    pub async fn delete(&self) -> Result<(), Error> {
        let path = path::consumer(self.client.app_id(), &self.name);
        self.send(&path, reqwest::Client::delete).await.map(drop)
    }

    /// Subscribes to the consumer's events: as [`Client::listen`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use = "dropping the subscription ends it"]
    pub fn listen(&self, options: ListenOptions) -> Subscription {
        Subscription::start(self.client.api.clone(), self.in_requests(), options)
    }

    /// Calls the handler for each of the consumer's events: as [`Client::run`].
    ///
    /// # Panics
    /// When awaited outside a tokio runtime.
    pub fn run<'h, H, F>(&self, handler: H) -> Run<'h, H>
    where
        H: FnMut(EventMessage) -> F + Send + 'h,
        F: Future<Output = Result<(), HandlerError>> + Send + 'h,
    {
        Run::new(self.client.api.clone(), self.in_requests(), handler)
    }

    /// Leases stored events of the consumer: as [`Client::lease`]. Their receipts are settled by this consumer only. Create the
    /// consumer first: a server of version 0.1 would lease those of `default`.
    ///
    /// # Errors
    /// As for [`Client::lease`]. [`ErrorKind::NotRegistered`]: the app has no such consumer.
    pub async fn lease(&self, options: LeaseOptions) -> Result<LeasedEvents, Error> {
        self.client.lease_for(self.in_requests(), options).await.map_err(|error| self.not_found(error))
    }

    /// Acknowledges leased events: as [`Client::ack`].
    ///
    /// # Errors
    /// [`ErrorKind::NotRegistered`]: the app has no such consumer.
    pub async fn ack(&self, receipts: impl IntoIterator<Item = Receipt>) -> Result<AckResponse, Error> {
        self.settle(&AckRequest { ack: receipts.into_iter().collect(), ..AckRequest::default() }).await
    }

    /// Releases leased events: as [`Client::release`].
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn release(&self, receipts: impl IntoIterator<Item = Receipt>) -> Result<AckResponse, Error> {
        let release = receipts.into_iter().map(Into::into).collect();
        self.settle(&AckRequest { release, ..AckRequest::default() }).await
    }

    /// Settles leases: as [`Client::settle`]. The consumer of the request is this one.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn settle(&self, receipts: &AckRequest) -> Result<AckResponse, Error> {
        let request = AckRequest { consumer: self.in_requests(), ..receipts.clone() };
        self.client.settle(&request).await.map_err(|error| self.not_found(error))
    }

    /// The name in requests. `default` is not named, so that a server of version 0.1 serves it as well.
    fn in_requests(&self) -> Option<ConsumerName> {
        Some(self.name.clone()).filter(|name| !name.is_default())
    }

    /// Sends a request to a path of the consumer. A 404 means that there is no such consumer, or that the server knows no consumers
    /// at all, which a request for the list of consumers distinguishes.
    async fn send(
        &self,
        path: &str,
        request: impl Fn(&reqwest::Client, reqwest::Url) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let url = self.client.api.url(path)?;
        match self.client.api.send(|http| request(http, url.clone())).await {
            Err(error) if error.kind() == ErrorKind::NotRegistered => {
                let consumers = self.client.consumers().await?;
                let exists = consumers.iter().any(|consumer| consumer.name == self.name);
                Err(if exists { as_the_server_says(error) } else { self.not_found(error) })
            }
            result => result,
        }
    }

    /// Replaces the message of a 404. The server's detail says what to do.
    fn not_found(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::NotRegistered {
            return error;
        }
        error.with_kind(ErrorKind::NotRegistered, format!("the consumer {} was not found", self.name))
    }
}

/// Replaces the message of a 404 that is about something other than the consumer by the server's detail.
fn as_the_server_says(error: Error) -> Error {
    match error.detail().map(str::to_owned) {
        Some(detail) if error.kind() == ErrorKind::NotRegistered => {
            error.with_kind(ErrorKind::NotRegistered, detail)
        }
        _ => error,
    }
}

fn old_server(error: Error) -> Error {
    explain_old_server(error, "consumers")
}
