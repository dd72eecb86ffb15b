//! What a test app does with its consumers.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::{App, Server, empty};

impl App {
    /// The same app at another server, such as one that was started again.
    pub(crate) fn at(&self, server: &Server) -> Self {
        Self { address: server.address.clone(), ..self.clone() }
    }

    /// Sends a request that creates or changes a consumer.
    pub(crate) async fn put_consumer(&self, name: &str, settings: Value) -> Response {
        let body = settings.to_string();
        self.request(Method::PUT, &format!("/consumers/{name}")).body(body).send().await.unwrap()
    }

    /// Creates a consumer.
    pub(crate) async fn new_consumer(&self, name: &str, settings: Value) {
        empty(self.put_consumer(name, settings).await, 201).await;
    }

    pub(crate) async fn delete_consumer(&self, name: &str) -> Response {
        self.request(Method::DELETE, &format!("/consumers/{name}")).send().await.unwrap()
    }

    /// A consumer of `GET /webhooks/{appId}/consumers/{name}`.
    pub(crate) async fn consumer(&self, name: &str) -> Value {
        let response = self.request(Method::GET, &format!("/consumers/{name}")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    pub(crate) async fn seek_response(&self, name: &str, to: &str) -> Response {
        let body = json!({"to": to}).to_string();
        self.request(Method::POST, &format!("/consumers/{name}/seek")).body(body).send().await.unwrap()
    }

    pub(crate) async fn seek(&self, name: &str, to: &str) {
        empty(self.seek_response(name, to).await, 200).await;
    }

    /// Makes the outcomes and attempts of all consumers durable: they are written together with a seek.
    pub(crate) async fn flush(&self) {
        self.put_consumer("flush", json!({})).await;
        self.seek("flush", "new").await;
    }

    /// Registers the source `github`, whose events have a type.
    pub(crate) async fn typed_source(&self) {
        self.new_source("github", json!({"scheme": "github", "secret": &self.secret})).await;
    }

    /// Posts a webhook of this type to the source `github`.
    pub(crate) async fn post_typed(&self, kind: &str, body: &str) {
        let request = self.github("github", &self.secret, body).header("X-GitHub-Event", kind);
        empty(request.send().await.unwrap(), 201).await;
    }

    /// Leases and acknowledges the events of a consumer until there are no more, and returns their bodies.
    pub(crate) async fn drain(&self, consumer: &str) -> Vec<String> {
        let mut bodies = Vec::new();
        loop {
            let leased = self.lease(json!({"consumer": consumer, "max": 1000})).await;
            if leased.is_empty() {
                return bodies;
            }
            let receipts: Vec<_> = leased.iter().map(|event| &event.receipt).collect();
            let settled = self.settle(json!({"consumer": consumer, "ack": receipts})).await;
            assert_eq!(settled["acked"], leased.len(), "{settled}");
            bodies.extend(leased.iter().map(|event| String::from_utf8(event.body.to_vec()).unwrap()));
        }
    }
}
