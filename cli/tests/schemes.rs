//! `wwproxy schemes`: the built command, without a server.

use std::{
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use serde_json::Value;
use wwproxy_sdk::{
    Secret,
    scheme::{Covers, Request, Scheme, presets},
};

fn schemes(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wwproxy"));
    let output = command.arg("schemes").args(args).env_clear().output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn each_scheme_is_a_line_of_json_without_a_terminal() {
    let (code, list, _) = schemes(&[]);
    assert_eq!(code, Some(0));
    let lines: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = lines.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, presets().map(|preset| preset.name.as_str()).collect::<Vec<_>>());
    let of = |name| lines.iter().find(|line| line["name"] == name).unwrap();
    assert_eq!(of("stripe")["tolerance"], 300);
    assert_eq!(of("telegram")["covers"], "nothing");
    assert_eq!(of("discord")["success"], 204);
}

/// Verifies an example, and that a body with one more byte is not valid.
fn assert_is_valid(scheme: &Scheme, example: &Value) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let headers: Vec<_> = example["headers"].as_array().unwrap().iter().collect();
    let headers: Vec<_> = headers.iter().map(|header| (text(&header[0]), text(&header[1]))).collect();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let (secret, url, body) =
        (Secret::new(text(&example["secret"])), text(&example["url"]), text(&example["body"]));
    let time = UNIX_EPOCH + Duration::from_secs(example["time"].as_u64().unwrap());
    let verify = |body: &str, secret: &Secret| {
        let request = Request { url: Some(&url), ..Request::new("POST", &headers, body.as_bytes()) };
        scheme.verify(std::slice::from_ref(secret), &request, time).map(drop)
    };
    let name = scheme.name();
    assert_eq!(verify(&body, &secret), Ok(()), "{name}");
    if scheme.covers() == Covers::Body {
        assert!(verify(&format!("{body} "), &secret).is_err(), "{name}");
    }
}

#[test]
fn a_scheme_is_shown_in_full_with_an_example_that_is_valid() {
    for preset in presets() {
        let (code, full, _) = schemes(&[&preset.name]);
        assert_eq!(code, Some(0), "{}", preset.name);
        let full: Value = serde_json::from_str(&full).unwrap();
        assert!(full["alternatives"][0]["signature"].is_string(), "{full}");
        let without = ["gitea-form", "sendgrid"];
        assert_eq!(full["example"].is_null(), without.contains(&preset.name.as_str()), "{}", preset.name);
        if !full["example"].is_null() {
            assert_is_valid(&preset.scheme, &full["example"]);
        }
    }
    let (code, _, messages) = schemes(&["strip"]);
    assert!(code == Some(2) && messages.contains("did you mean 'stripe'?"), "{messages}");
}

#[test]
fn the_schemes_of_no_sender_are_described() {
    for (name, words) in [
        ("none", ["--allow-unverified", "wwproxy register --scheme none"]),
        ("template", ["tolerance", "docs/templates.md"]),
    ] {
        let (code, full, _) = schemes(&[name, "--json"]);
        let full: Value = serde_json::from_str(&full).unwrap();
        let description = full["description"].as_str().unwrap();
        assert_eq!((code, &full["name"]), (Some(0), &name.into()));
        assert!(words.iter().all(|word| description.contains(word)), "{description}");
    }
    let (code, _, messages) = schemes(&["templates"]);
    assert!(code == Some(2) && messages.contains("did you mean 'template'?"), "{messages}");
    // Every field of the grammar is described.
    let fields =
        Scheme::template(r#"{"algorithm":"token","signature":"header:X","x":"y"}"#).unwrap_err().reason;
    let (_, page, _) = schemes(&["template"]);
    let fields: Vec<_> = fields.rsplit(": ").next().unwrap().split(", ").collect();
    assert_eq!(fields.len(), 13);
    assert!(fields.iter().all(|field| page.contains(&format!("\\n  {field} "))), "{fields:?}: {page}");
}
