//! Recorded Watson Work requests, posted unchanged and read back.

use std::{fs, path::PathBuf};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::{
    bodies::assert_round_trip,
    common::{App, Server, sign},
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The fixtures that are signed webhooks, by name.
fn webhooks() -> Vec<(String, Value)> {
    let files = fs::read_dir(folder().join("watsonwork")).unwrap().map(|file| file.unwrap().path());
    let named = files.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), read(path)));
    named.filter(|(_, fixture)| fixture["webhook_secret"].is_string()).collect()
}

fn headers(fixture: &Value) -> HeaderMap {
    let pairs = fixture["headers"].as_object().unwrap().iter();
    let header = |(name, value): (&String, &Value)| {
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value.as_str().unwrap()).unwrap())
    };
    pairs.map(header).collect()
}

/// Adds the fixture's app, and registers it with the fixture's secret.
async fn app_of(server: &Server, fixture: &Value) -> App {
    let mut app = server.new_app(fixture["app_id"].as_str().unwrap()).await;
    fixture["webhook_secret"].as_str().unwrap().clone_into(&mut app.secret);
    app.register(&app.secret).await;
    app
}

#[tokio::test]
async fn every_fixture_is_read_back_byte_for_byte() {
    let server = Server::start(&[]);
    let fixtures = webhooks();
    assert!(fixtures.len() > 15, "{}", fixtures.len());
    let app = app_of(&server, &fixtures[0].1).await;
    for (name, fixture) in fixtures.iter().filter(|(name, _)| name != "verification") {
        assert_eq!(fixture["webhook_secret"], app.secret.as_str(), "{name}");
        let request = &fixture["request"];
        let body = request["body_raw"].as_str().unwrap();
        let post = app.bare_hook().headers(headers(request)).body(body.to_owned());
        assert_round_trip(&app, post, body).await;
    }
}

#[tokio::test]
async fn the_headers_of_a_fixture_are_stored_with_its_event() {
    let server = Server::start(&[]);
    let (_, fixture) = webhooks().into_iter().find(|(name, _)| name == "message-created").unwrap();
    let app = app_of(&server, &fixture).await;
    let sent = headers(&fixture["request"]);
    let body = fixture["request"]["body_raw"].as_str().unwrap().to_owned();
    assert_eq!(app.bare_hook().headers(sent.clone()).body(body).send().await.unwrap().status(), 201);
    let stored = app.lease(json!({})).await.remove(0).event.details.headers;
    for (name, value) in &sent {
        let pair = (name.as_str().to_owned(), value.to_str().unwrap().to_owned());
        assert!(stored.contains(&pair), "{pair:?} in {stored:?}");
    }
}

#[tokio::test]
async fn the_verification_fixture_gets_its_expected_response() {
    let server = Server::start(&[]);
    let fixture = read(folder().join("watsonwork/verification.json"));
    let app = app_of(&server, &fixture).await;
    let (request, expected) = (&fixture["request"], &fixture["expected_response"]);
    let body = request["body_raw"].as_str().unwrap().to_owned();
    let response = app.bare_hook().headers(headers(request)).body(body).send().await.unwrap();
    assert_eq!(response.status().as_u16(), expected["status"]);
    for (name, value) in &headers(expected) {
        assert_eq!(&response.headers()[name], value, "{name}");
    }
    assert_eq!(response.text().await.unwrap(), expected["body_raw"].as_str().unwrap());
}

#[tokio::test]
async fn the_signature_vectors_are_accepted() {
    let server = Server::start(&[]);
    let mut app = server.new_app("bot").await;
    let vectors = read(folder().join("signature-vectors.json"));
    let of_watson_work: Vec<_> =
        vectors.as_array().unwrap().iter().filter(|vector| vector["scheme"] == "watsonwork").collect();
    assert!(of_watson_work.len() >= 2);
    for vector in of_watson_work {
        let [secret, body, value] = ["secret", "body", "value"].map(|name| vector[name].as_str().unwrap());
        assert_eq!(sign(secret, body), value, "sign() computes the vector");
        secret.clone_into(&mut app.secret);
        app.register(secret).await;
        let post = app.bare_hook().header(vector["header"].as_str().unwrap(), value).body(body.to_owned());
        assert!(post.send().await.unwrap().status().is_success(), "{vector}");
    }
}
