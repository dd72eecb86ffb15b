//! A test app: posts webhooks as its sender, reads events as its client.

use reqwest::{Method, RequestBuilder, Response, header};
use serde_json::{Value, json};
use wwproxy_protocol::api::{self, LeasedEvent};

use super::{Socket, empty, raw::Raw, sign};

#[derive(Clone)]
#[expect(clippy::struct_field_names, reason = "`app_secret` and `secret` are different secrets")]
pub(crate) struct App {
    pub(crate) id: String,
    /// The client secret of the token endpoint.
    pub(crate) app_secret: String,
    pub(crate) token: String,
    /// The webhook secret, which signs its webhooks.
    pub(crate) secret: String,
    pub(crate) address: String,
    pub(crate) http: reqwest::Client,
}

impl App {
    pub(crate) fn hook_path(&self) -> String {
        format!("/hook/{}", self.id)
    }

    /// The path `/webhooks/{appId}`, followed by `rest`.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/webhooks/{}{rest}", self.id)
    }

    /// An unsigned webhook request.
    pub(crate) fn bare_hook(&self) -> RequestBuilder {
        self.http.post(format!("http://{}{}", self.address, self.hook_path()))
    }

    /// A signed webhook request.
    pub(crate) fn hook(&self, body: impl Into<Vec<u8>>) -> RequestBuilder {
        let body = body.into();
        self.bare_hook().header("X-OUTBOUND-TOKEN", sign(&self.secret, &body)).body(body)
    }

    /// A signed webhook request with an `X-OUTBOUND-INDEX`.
    pub(crate) fn indexed(&self, index: u32, body: &str) -> RequestBuilder {
        self.hook(body).header("X-OUTBOUND-INDEX", index)
    }

    /// Posts a signed webhook, and expects `201`.
    pub(crate) async fn post(&self, body: impl Into<Vec<u8>>) {
        empty(self.hook(body).send().await.unwrap(), 201).await;
    }

    /// Posts the body [`number(n)`](number) for each number of the range.
    pub(crate) async fn post_numbers(&self, numbers: std::ops::Range<usize>) {
        for n in numbers {
            self.post(number(n)).await;
        }
    }

    /// An authorized request to [`App::path`].
    pub(crate) fn request(&self, method: Method, rest: &str) -> RequestBuilder {
        self.anonymous(method, rest).bearer_auth(&self.token)
    }

    /// A request to [`App::path`] without a token.
    pub(crate) fn anonymous(&self, method: Method, rest: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{}", self.address, self.path(rest)))
    }

    pub(crate) async fn register(&self, secret: &str) {
        let body = json!({"secret": secret}).to_string();
        empty(self.request(Method::PUT, "").body(body).send().await.unwrap(), 201).await;
    }

    /// Sends a request that registers a source.
    pub(crate) async fn put_source(&self, name: &str, settings: Value) -> Response {
        let body = settings.to_string();
        self.request(Method::PUT, &format!("/sources/{name}")).body(body).send().await.unwrap()
    }

    /// Registers a new source.
    pub(crate) async fn new_source(&self, name: &str, settings: Value) {
        empty(self.put_source(name, settings).await, 201).await;
    }

    /// A source of `GET /webhooks/{appId}/sources/{name}`.
    pub(crate) async fn source(&self, name: &str) -> Value {
        let response = self.request(Method::GET, &format!("/sources/{name}")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    /// A request to the hook of a source, whose name may have a tail and a query.
    pub(crate) fn source_hook(&self, method: Method, name: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{}/{name}", self.address, self.hook_path()))
    }

    /// A webhook as GitHub signs it.
    pub(crate) fn github(&self, source: &str, secret: &str, body: impl Into<Vec<u8>>) -> RequestBuilder {
        let body = body.into();
        let signature = format!("sha256={}", sign(secret, &body));
        self.source_hook(Method::POST, source).header("X-Hub-Signature-256", signature).body(body)
    }

    /// The refused webhooks, newest first.
    pub(crate) async fn refusals(&self) -> Vec<Value> {
        let response = self.request(Method::GET, "/refusals").send().await.unwrap();
        assert_eq!(response.status(), 200);
        let answer: Value = response.json().await.unwrap();
        answer["refusals"].as_array().unwrap().clone()
    }

    pub(crate) async fn unregister(&self) {
        empty(self.request(Method::DELETE, "").send().await.unwrap(), 200).await;
    }

    /// Polls, and returns the response body unchanged.
    pub(crate) async fn poll_text(&self, query: &str) -> String {
        let response = self.request(Method::GET, query).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
        assert!(kind.starts_with("application/json"), "{kind}");
        response.text().await.unwrap()
    }

    /// Polls, and returns the ids and bodies of the events.
    pub(crate) async fn poll(&self, query: &str) -> Vec<(String, String)> {
        let events = api::decode_poll(&self.poll_text(query).await).unwrap();
        events.into_iter().map(|(id, body)| (id.to_string(), text(&body))).collect()
    }

    /// Polls, and returns the bodies of the events.
    pub(crate) async fn poll_bodies(&self) -> Vec<String> {
        self.poll("").await.into_iter().map(|(_, body)| body).collect()
    }

    pub(crate) async fn lease_response(&self, wanted: Value) -> Response {
        self.request(Method::POST, "/lease").json(&wanted).send().await.unwrap()
    }

    pub(crate) async fn lease(&self, wanted: Value) -> Vec<LeasedEvent> {
        let response = self.lease_response(wanted).await;
        let (status, body) = (response.status(), response.text().await.unwrap());
        assert_eq!(status, 200, "{body}");
        let leased = api::decode_lease(&body).unwrap();
        assert_eq!(leased.undecodable, []);
        leased.events
    }

    /// Settles receipts, and returns the response.
    pub(crate) async fn settle(&self, settlement: Value) -> Value {
        let response = self.request(Method::POST, "/ack").json(&settlement).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    pub(crate) async fn status(&self) -> Value {
        let response = self.request(Method::GET, "/status").send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    /// One number of the status, such as `stored`.
    pub(crate) async fn gauge(&self, name: &str) -> u64 {
        let status = self.status().await;
        status[name].as_u64().unwrap_or_else(|| panic!("{name}: {status}"))
    }

    /// Opens a legacy websocket.
    pub(crate) async fn listen(&self, query: &str) -> Socket {
        Socket::open(&self.address, &self.path(query), &self.token, None).await
    }

    /// Opens a `wwproxy.v2` websocket, and returns it with its hello.
    pub(crate) async fn listen_v2(&self, query: &str) -> (Socket, Value) {
        let mut socket =
            Socket::open(&self.address, &self.path(query), &self.token, Some("wwproxy.v2")).await;
        let hello = serde_json::from_str(&socket.next().await).unwrap();
        (socket, hello)
    }

    /// Opens a raw TCP connection to the server.
    pub(crate) async fn raw(&self) -> Raw {
        Raw::open(&self.address).await
    }
}

/// The JSON body `{"n":…}`.
pub(crate) fn number(n: usize) -> String {
    format!(r#"{{"n":{n}}}"#)
}

fn text(body: &[u8]) -> String {
    String::from_utf8(body.to_vec()).unwrap()
}
