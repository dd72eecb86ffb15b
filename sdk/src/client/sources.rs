//! The sources of an app: from which senders it receives webhooks.

use reqwest::{RequestBuilder, Response, StatusCode, header};
use wwproxy_protocol::{
    SourceName, SourceSettings,
    api::{ArmStatus, Refusal, Refusals, SourceStatus, Sources, path},
};

use super::{Client, MAX_SMALL_RESPONSE_BYTES, explain_old_server};
use crate::{Error, ErrorKind, response::read_json};

impl Client {
    /// Registers a source of the app, or replaces it. From now on the server accepts its webhooks. Returns whether the
    /// source is new. The source `default` is that of [`register`](Self::register).
    ///
    /// ```no_run
    /// use wwproxy_sdk::{Client, Error, Secret, SourceSettings};
    ///
    /// async fn register(client: &Client, secret: Secret) -> Result<(), Error> {
    ///     let settings =
    ///         SourceSettings { scheme: "github".into(), secrets: vec![secret], ..SourceSettings::default() };
    ///     let name = "repository".parse().expect("a valid name");
    ///     client.put_source(&name, &settings).await?;
    ///     println!("{:?}", client.source(&name).await?.hook);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`]: the settings are invalid, and [`Error::detail`] names the member; or the app has 32
    /// sources. [`ErrorKind::Refused`]: the scheme is `none`, which the server does not allow.
    /// [`ErrorKind::Protocol`]: the server is older than sources.
    pub async fn put_source(&self, name: &SourceName, settings: &SourceSettings) -> Result<bool, Error> {
        let url = self.api.url(&path::source(self.app_id(), name))?;
        let body = settings.expose();
        let put = |http: &reqwest::Client| {
            http.put(url.clone()).header(header::CONTENT_TYPE, "application/json").body(body.to_string())
        };
        let response = self.api.send(put).await.map_err(old_server)?;
        Ok(response.status() == StatusCode::CREATED)
    }

    /// Returns the app's sources, sorted by name, without their secrets.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: the server is older than sources.
    pub async fn sources(&self) -> Result<Vec<SourceStatus>, Error> {
        let url = self.api.url(&path::sources(self.app_id()))?;
        let response = self.api.send(|http| http.get(url.clone())).await.map_err(old_server)?;
        let sources: Sources = read_json(response, MAX_SMALL_RESPONSE_BYTES).await?;
        Ok(sources.sources)
    }

    /// Returns a source, without its secrets.
    ///
    /// # Errors
    /// [`ErrorKind::NotRegistered`]: the app has no such source. [`ErrorKind::Protocol`]: the server is older than sources.
    pub async fn source(&self, name: &SourceName) -> Result<SourceStatus, Error> {
        let response = self.send_to_source(&path::source(self.app_id(), name), reqwest::Client::get).await?;
        read_json(response, MAX_SMALL_RESPONSE_BYTES).await
    }

    /// Deletes a source: its webhooks are refused from now on. Its stored events stay.
    ///
    /// # Errors
    /// As for [`source`](Self::source).
    pub async fn delete_source(&self, name: &SourceName) -> Result<(), Error> {
        let path = path::source(self.app_id(), name);
        self.send_to_source(&path, reqwest::Client::delete).await.map(drop)
    }

    /// Arms a source whose sender sets the secret by a handshake: the server accepts one handshake, for ten minutes.
    ///
    /// # Errors
    /// As for [`source`](Self::source). [`ErrorKind::InvalidRequest`]: the source's scheme has no such handshake.
    pub async fn arm_source(&self, name: &SourceName) -> Result<ArmStatus, Error> {
        let response = self.send_to_source(&path::arm(self.app_id(), name), reqwest::Client::post).await?;
        read_json(response, MAX_SMALL_RESPONSE_BYTES).await
    }

    /// Returns whether a source is armed, and whether the handshake has taken place.
    ///
    /// # Errors
    /// As for [`source`](Self::source).
    pub async fn arm_status(&self, name: &SourceName) -> Result<ArmStatus, Error> {
        let response = self.send_to_source(&path::arm(self.app_id(), name), reqwest::Client::get).await?;
        read_json(response, MAX_SMALL_RESPONSE_BYTES).await
    }

    /// Returns the webhooks that the app's sources refused last, newest first.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: the server is older than sources.
    pub async fn refusals(&self) -> Result<Vec<Refusal>, Error> {
        let url = self.api.url(&path::refusals(self.app_id()))?;
        let response = self.api.send(|http| http.get(url.clone())).await.map_err(old_server)?;
        let refusals: Refusals = read_json(response, MAX_SMALL_RESPONSE_BYTES).await?;
        Ok(refusals.refusals)
    }

    /// Sends a request to a path of one source. A 404 means that there is no such source, or that the server knows no sources
    /// at all, which a request for the list of sources distinguishes.
    async fn send_to_source(
        &self,
        path: &str,
        method: impl Fn(&reqwest::Client, reqwest::Url) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let url = self.api.url(path)?;
        match self.api.send(|http| method(http, url.clone())).await {
            Err(error) if error.kind() == ErrorKind::NotRegistered => {
                self.sources().await?;
                // The server's detail says what to do.
                let message = "the source was not found";
                Err(error.with_kind(ErrorKind::NotRegistered, message))
            }
            result => result,
        }
    }
}

fn old_server(error: Error) -> Error {
    explain_old_server(error, "sources")
}
