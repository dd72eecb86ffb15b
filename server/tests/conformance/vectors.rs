//! The deliveries of `fixtures/senders`, valid and not, signed again with the time of now where the sender signs one.

use std::{fs, path::Path, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use wwproxy_protocol::{
    Secret,
    scheme::{Scheme, Unsigned, presets},
};

use crate::common::{App, Server, empty, problem};

fn fixture(name: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/senders");
    serde_json::from_slice(&fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap()
}

fn headers(list: &Value) -> Vec<(String, String)> {
    serde_json::from_value(list.clone()).unwrap()
}

/// Registers the source `default`.
async fn register(app: &App, scheme: &Scheme, secret: &str, url: &str) {
    let mut settings = json!({"scheme": scheme.name(), "secrets": [secret]});
    if scheme.needs_url() {
        settings["url"] = url.into();
    }
    empty(app.request(Method::PUT, "").body(settings.to_string()).send().await.unwrap(), 201).await;
}

async fn send(app: &App, headers: &[(String, String)], body: Vec<u8>) -> Response {
    let request =
        headers.iter().fold(app.bare_hook(), |request, (name, value)| request.header(name, value.as_bytes()));
    request.body(body).send().await.unwrap()
}

/// The request with a signature of now, in place of its own.
fn signed(
    scheme: &Scheme,
    secret: &str,
    url: &str,
    list: &Value,
    body: &[u8],
) -> (Vec<(String, String)>, Vec<u8>) {
    let given = headers(list);
    let kind: Vec<_> = given
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("Content-Type"))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let unsigned = Unsigned {
        method: "POST",
        url: Some(url),
        headers: &kind,
        body,
        delivery_id: "id-1",
        event_type: None,
        time: SystemTime::now(),
    };
    let signed = scheme.sign(&Secret::new(secret), &unsigned).unwrap();
    let mut headers: Vec<_> =
        kind.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    headers.extend(signed.headers);
    (headers, signed.body.unwrap_or_else(|| body.to_vec()))
}

/// The id and the type of the only stored event.
async fn labels(app: &App) -> Value {
    let leased: Value = app.lease_response(json!({"max": 2})).await.json().await.unwrap();
    let events = leased["events"].as_array().unwrap();
    assert_eq!(events.len(), 1, "{leased}");
    json!({"id": events[0]["deliveryId"], "event": events[0]["eventType"]})
}

#[tokio::test]
async fn the_deliveries_of_every_sender_are_stored_or_refused() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let mut count = 0;
    for preset in presets() {
        let mut is_first = true;
        for vector in fixture(&preset.name) {
            let text = |member: &str| vector[member].as_str().unwrap();
            // Deliveries of another time are signed again in the next test.
            if !vector["now"].is_null() || text("method") != "POST" {
                continue;
            }
            register(&app, &preset.scheme, text("secret"), text("url")).await;
            let body = STANDARD.decode(text("body_base64")).unwrap();
            let response = send(&app, &headers(&vector["headers"]), body).await;
            let name = format!("{}, {}", preset.name, text("name"));
            count += 1;
            // A PING, which is answered.
            let is_ping = name == "discord, valid PING";
            if text("expect") == "valid" {
                let success = if is_ping { 200 } else { preset.scheme.success() };
                assert_eq!(response.status(), success, "{name}");
                if is_first && !is_ping {
                    let gives = json!({"id": vector["gives"]["id"], "event": vector["gives"]["event"]});
                    assert_eq!(labels(&app).await, gives, "{name}");
                    is_first = false;
                }
            } else {
                let detail = problem(response, 401).await;
                assert!(!detail.contains(text("secret")), "{name}: {detail}");
            }
        }
        app.unregister().await;
    }
    assert!(count >= 240, "{count}");
}

#[tokio::test]
async fn a_delivery_that_is_signed_now_is_stored_and_one_with_another_body_refused() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    let mut names = Vec::new();
    for preset in presets().filter(|preset| preset.scheme.tolerance().is_some()) {
        let vectors = fixture(&preset.name);
        let vector = vectors.iter().rfind(|vector| vector["expect"] == "valid").unwrap();
        let text = |member: &str| vector[member].as_str().unwrap();
        register(&app, &preset.scheme, text("secret"), text("url")).await;
        let body = STANDARD.decode(text("body_base64")).unwrap();
        let (headers, mut body) =
            signed(&preset.scheme, text("secret"), text("url"), &vector["headers"], &body);
        let response = send(&app, &headers, body.clone()).await;
        assert_eq!(response.status(), preset.scheme.success(), "{}", preset.name);
        if preset.name == "mailgun" {
            // The signature covers single values.
            body = String::from_utf8(body).unwrap().replace("\"token\":\"", "\"token\":\"0").into_bytes();
        } else {
            body.push(b' ');
        }
        problem(send(&app, &headers, body).await, 401).await;
        names.push(preset.name.as_str());
    }
    assert_eq!(names.len(), 12, "{names:?}");
}
