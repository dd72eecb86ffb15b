//! What holds for every preset: its signature must be there once, with its prefix, and its timestamp near the clock.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;
use sha2::Sha256;
use wwproxy_protocol::{
    Secret,
    scheme::{Check, Covers, MAX_PUBLIC_KEY_SIGNATURES, Request, Scheme, preset, presets},
};

use super::vectors::{Vector, rows, valid, vectors};

fn accepted(name: &str) -> Vector {
    vectors(name).into_iter().find(Vector::is_valid).unwrap()
}

/// The header with the signature, and the prefix of the signature, of the first template that has them.
fn signature(name: &str) -> Option<(String, String)> {
    let row = rows().into_iter().find(|row| row["name"] == name).unwrap();
    if name == "twilio" {
        return Some(("X-Twilio-Signature".into(), String::new()));
    }
    let template = &row["templates"][0];
    let header = template["signature"].as_str()?.strip_prefix("header:")?.replace('*', "1");
    Some((header, template["prefix"].as_str().unwrap_or_default().to_owned()))
}

#[test]
fn a_signature_that_is_absent_empty_or_doubled_is_refused() {
    for preset in presets() {
        let Some((header, prefix)) = signature(&preset.name) else { continue };
        let vector = accepted(&preset.name);
        let value = vector.clone().header(&header).unwrap().clone();
        let others =
            || vector.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(&header)).cloned();
        let with = |values: &[&[u8]]| {
            let values = values.iter().map(|value| (header.clone(), value.to_vec()));
            let changed = Vector { headers: others().chain(values).collect(), ..vector.clone() };
            changed.verify(&preset.scheme).map_err(|rejection| rejection.check)
        };
        assert!(with(&[&value]).is_ok(), "{}", preset.name);
        for values in [&[][..], &[&b""[..]], &[&value, &value]] {
            assert_eq!(with(values), Err(Check::Header), "{} {values:?}", preset.name);
        }
        for other in [prefix.as_bytes(), b"v9=", b" ", b"null"] {
            assert!(with(&[other]).is_err(), "{} {other:?}", preset.name);
        }
    }
}

#[test]
fn a_signature_without_its_prefix_or_with_another_is_refused() {
    let mut count = 0;
    for preset in presets() {
        let Some((header, prefix)) = signature(&preset.name).filter(|(_, prefix)| !prefix.is_empty()) else {
            continue;
        };
        for other in [String::new(), "v9=".to_owned(), format!("x{prefix}")] {
            let mut vector = accepted(&preset.name);
            let value = vector.header(&header).unwrap();
            *value = String::from_utf8(value.clone()).unwrap().replace(&prefix, &other).into_bytes();
            assert!(vector.verify(&preset.scheme).is_err(), "{} {other:?}", preset.name);
        }
        count += 1;
    }
    assert_eq!(count, 20);
}

#[test]
fn a_timestamp_is_accepted_up_to_its_tolerance_in_both_directions() {
    let millisecond = Duration::from_millis(1);
    let mut names = Vec::new();
    for preset in presets() {
        let Some(tolerance) = preset.scheme.tolerance() else { continue };
        // The first valid vector has a timestamp that is the time of its clock.
        let vector = accepted(&preset.name);
        let at = |now| vector.verify_at(&preset.scheme, now).map(drop).map_err(|rejection| rejection.check);
        for (now, further) in [
            (vector.now() + tolerance, vector.now() + tolerance + millisecond),
            (vector.now() - tolerance, vector.now() - tolerance - millisecond),
        ] {
            assert_eq!((at(now), at(further)), (Ok(()), Err(Check::Timestamp)), "{}", preset.name);
        }
        names.push(preset.name.as_str());
    }
    assert_eq!(
        names,
        [
            "calendly",
            "gitlab",
            "hubspot-v3",
            "linear",
            "mailgun",
            "paddle",
            "slack",
            "standard-webhooks",
            "stripe",
            "svix",
            "zendesk",
            "zoom"
        ]
    );
}

#[test]
fn broken_verifiers_of_twilio_and_msgraph_are_caught() {
    let twilio = |content, covers| {
        json!({
            "algorithm": "hmac-sha1", "signature": "header:X-Twilio-Signature", "encoding": "base64",
            "content": content, "covers": covers,
        })
    };
    let first = json!({"algorithm": "token", "signature": "json:value.0.clientState"});
    for (name, mutant) in [
        ("twilio", twilio("{body}", "body")),
        ("twilio", twilio("{url}", "url")),
        ("twilio", twilio("{url}{body}", "body")),
        ("msgraph", first),
    ] {
        let mutant = Scheme::template(&mutant.to_string()).unwrap();
        let is_wrong = |vector: &Vector| vector.verify(&mutant).is_ok() != vector.is_valid();
        assert!(vectors(name).iter().any(is_wrong), "{name}");
    }
}

#[test]
fn adyen_payments_has_one_item() {
    let scheme = &preset("adyen-payments").unwrap().scheme;
    let vector = accepted("adyen-payments");
    let body: serde_json::Value = serde_json::from_slice(&vector.body).unwrap();
    let item = &body["notificationItems"][0];
    let check = |items: serde_json::Value| {
        let mut body = body.clone();
        body["notificationItems"] = items;
        let changed = Vector { body: body.to_string().into_bytes(), ..vector.clone() };
        changed.verify(scheme).map(drop).map_err(|rejection| rejection.check)
    };
    assert_eq!(check(json!([item])), Ok(()));
    for items in [json!([item, item]), json!([item, {}]), json!([item, null]), json!({"0": item}), json!([])]
    {
        assert_eq!(check(items.clone()), Err(Check::Header), "{items}");
    }
}

/// A delivery of Standard Webhooks signed with a private key, with `wrong` other signatures before the right one.
fn with_public_key(prefix: &str, wrong: usize) -> Vector {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let mut vector = accepted("standard-webhooks");
    let [id, timestamp] = ["webhook-id", "webhook-timestamp"]
        .map(|name| String::from_utf8(vector.header(name).unwrap().clone()).unwrap());
    let content = [format!("{id}.{timestamp}.").as_bytes(), &vector.body].concat();
    let wrong = format!("v1a,{} ", STANDARD.encode([0; 64])).repeat(wrong);
    let value = format!("{wrong}v1a,{}", STANDARD.encode(pair.sign(&content)));
    *vector.header("webhook-signature").unwrap() = value.into_bytes();
    vector.secret = format!("{prefix}{}", STANDARD.encode(pair.public_key()));
    vector
}

#[test]
fn a_public_key_verifies_few_signatures() {
    let scheme = &preset("standard-webhooks").unwrap().scheme;
    let accepts = |wrong| with_public_key("whpk_", wrong).verify(scheme).is_ok();
    assert!(accepts(0));
    assert!(accepts(MAX_PUBLIC_KEY_SIGNATURES - 1));
    assert!(!accepts(MAX_PUBLIC_KEY_SIGNATURES));
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    let scheme = &preset("standard-webhooks").unwrap().scheme;
    for prefix in ["", "whsec_"] {
        assert!(with_public_key(prefix, 0).verify(scheme).is_err(), "{prefix:?}");
    }
    let mut vector = with_public_key("whpk_", 0);
    let key = STANDARD.decode(&vector.secret[5..]).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    for name in ["webhook-id", "webhook-timestamp"] {
        mac.update(vector.header(name).unwrap());
        mac.update(b".");
    }
    mac.update(&vector.body);
    let forged = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    *vector.header("webhook-signature").unwrap() = forged.into_bytes();
    assert!(vector.verify(scheme).is_err());
}

#[test]
fn a_large_body_is_hashed_with_pauses() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static PAUSES: AtomicUsize = AtomicUsize::new(0);
    let secret = Secret::new("secret");
    let body = vec![b'x'; 1 << 20];
    let signature = wwproxy_protocol::sign_watson_work(&secret, &body);
    let signature = format!("sha256={signature}");
    let headers = [("X-Hub-Signature-256", signature.as_bytes())];
    let pause = || {
        PAUSES.fetch_add(1, Ordering::Relaxed);
    };
    let request = Request { pause, ..Request::new("POST", &headers, &body) };
    preset("github").unwrap().scheme.verify(&[secret], &request, std::time::UNIX_EPOCH).unwrap();
    assert!((64..80).contains(&PAUSES.load(Ordering::Relaxed)), "{PAUSES:?}");
}

#[test]
fn the_type_of_a_form_has_the_action_of_its_payload() {
    for name in ["gitea", "gitea-form", "forgejo"] {
        let mut vector = valid("gitea-form", "form");
        vector.body = b"payload=%7B%22action%22%3A%22opened%22%7D".to_vec();
        let signature = wwproxy_protocol::sign_watson_work(
            &Secret::new(vector.secret.as_str()),
            br#"{"action":"opened"}"#,
        );
        *vector.header("X-Gitea-Signature").unwrap() = signature.into_bytes();
        let verified = vector.verify(&preset(name).unwrap().scheme).unwrap();
        assert_eq!(verified.event_type.as_deref(), Some("push.opened"), "{name}");
    }
}

#[test]
fn a_type_of_more_than_256_bytes_is_left_out_also_if_its_parts_are_shorter() {
    let secret = Secret::new("s");
    for (action, is_kept) in [(155, true), (156, false)] {
        let body = format!(r#"{{"action":"{}"}}"#, "a".repeat(action));
        let event = "e".repeat(100);
        let signature = format!("sha256={}", wwproxy_protocol::sign_watson_work(&secret, body.as_bytes()));
        let headers = [("X-Hub-Signature-256", signature.as_bytes()), ("X-GitHub-Event", event.as_bytes())];
        let request = Request::new("POST", &headers, body.as_bytes());
        let verified = preset("github")
            .unwrap()
            .scheme
            .verify(std::slice::from_ref(&secret), &request, std::time::UNIX_EPOCH)
            .unwrap();
        assert_eq!(verified.event_type.map(|text| text.len()), is_kept.then_some(256));
    }
}

#[test]
fn a_signature_in_authorization_and_a_secret_of_a_handshake_are_known() {
    let with_authorization: Vec<_> =
        presets().filter(|preset| preset.scheme.keeps_authorization()).map(|preset| &preset.name).collect();
    assert_eq!(with_authorization, ["okta", "teams-outgoing"]);
    let learns: Vec<_> =
        presets().filter(|preset| preset.scheme.learns_secret()).map(|preset| &preset.name).collect();
    assert_eq!(learns, ["asana", "notion"]);
    let own = Scheme::template(r#"{"algorithm":"token","signature":"header:authorization"}"#).unwrap();
    assert!(own.keeps_authorization());
    assert_eq!(own.covers(), Covers::Nothing);
}

#[test]
fn a_secret_is_checked_before_it_is_stored() {
    for (name, secret, valid) in [
        ("github", "any text", true),
        ("standard-webhooks", "whsec_not base64", false),
        ("discord", "00", false),
        ("sendgrid", "bm90IGEga2V5", false),
        ("adyen-payments", "xyz", false),
        ("teams-outgoing", "?", false),
        ("twilio", "auth token", true),
        ("msgraph", &"x".repeat(128), true),
        ("msgraph", &"x".repeat(129), false),
    ] {
        let checked = Scheme::preset(name).unwrap().check_secret(&Secret::new(secret));
        assert_eq!(checked.is_ok(), valid, "{name}: {checked:?}");
    }
}
