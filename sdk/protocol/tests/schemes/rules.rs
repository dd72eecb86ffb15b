//! The rules of the grammar, its errors and its bounds.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::Sha256;
use wwproxy_protocol::{
    Secret,
    scheme::{Check, MAX_TEMPLATE_BYTES, Request, Scheme, preset},
};

use super::vectors::{Vector, valid};

fn verify(preset_name: &str, vector: &Vector) -> Result<(), Check> {
    vector.verify(&preset(preset_name).unwrap().scheme).map(|_| ()).map_err(|rejection| rejection.check)
}

fn minimal() -> Value {
    json!({"algorithm": "hmac-sha256", "signature": "header:X-Sig", "encoding": "hex", "content": "{body}"})
}

#[test]
fn an_error_names_the_field() {
    assert!(Scheme::template(&minimal().to_string()).is_ok());
    for (field, value, named) in [
        ("algorithm", json!("md5"), "algorithm"),
        ("algorithm", json!(1), "algorithm"),
        ("algorithm", Value::Null, "algorithm"),
        ("algorithm", json!("token"), "content"),
        ("algorithm", json!("ed25519"), "key"),
        ("signature", json!("X-Sig"), "signature"),
        ("signature", json!("header:X Sig"), "signature"),
        ("signature", json!("header:*"), "signature"),
        ("signature", json!("json:a..b"), "signature"),
        ("split", json!(", "), "split"),
        ("split", json!("a"), "split"),
        ("encoding", json!("base32"), "encoding"),
        ("content", json!("{timestamp}.{body}"), "timestamp"),
        ("content", json!("{id}.{body}"), "id"),
        ("content", json!("{url}"), "content"),
        ("content", json!("{body"), "content"),
        ("content", json!("body}"), "content"),
        ("content", json!("{secret}{body}"), "content"),
        ("content", json!("{body?}"), "content"),
        ("content", json!("{body}".repeat(17)), "content"),
        ("timestamp", json!("header:X-Time"), "timestamp"),
        ("timestamp", json!("item:t="), "timestamp"),
        ("unit", json!("ms"), "unit"),
        ("tolerance", json!(300), "tolerance"),
        ("key", json!("strip:whsec_ base32"), "key"),
        ("key", json!("base64 hex"), "key"),
        ("id", json!("item:t="), "id"),
        ("event", json!("header:X-Event.item:a"), "event"),
        ("event", json!("json:"), "event"),
        ("covers", json!("nothing"), "covers"),
        ("covers", json!("all"), "covers"),
        ("secret", json!("hunter2"), "secret"),
    ] {
        let mut template = minimal();
        template[field] = value.clone();
        let error = Scheme::template(&template.to_string()).expect_err(field);
        assert_eq!(error.field, named, "{field} {value}: {error}");
    }
    let list = json!([minimal(), {"algorithm": "token"}]);
    assert_eq!(Scheme::template(&list.to_string()).unwrap_err().field, "1.signature");
    assert!(Scheme::template("[]").is_err());
    assert!(Scheme::template(&format!("{}{}", minimal(), " ".repeat(MAX_TEMPLATE_BYTES))).is_err());
}

#[test]
fn an_error_says_where_it_is_and_what_is_known() {
    let error = |text: &str| Scheme::template(text).unwrap_err().to_string();
    let faulty = "{\"algorithm\": \"token\",\n \"signature\": header}";
    assert_eq!(error(faulty), "the template must be JSON: expected value at line 2 column 15");
    let with = |field: &str, value: &str| {
        let mut template = minimal();
        template[field] = value.into();
        error(&template.to_string())
    };
    let known = "known fields: algorithm, signature, split, prefix, encoding, content, timestamp, unit, tolerance, key, id, event, \
                 covers";
    assert_eq!(with("secert", "x"), format!("template field \"secert\" is unknown; {known}"));
    assert_eq!(with("a\n\u{1b}", "x"), format!("template field \"a\\n\\u{{1b}}\" is unknown; {known}"));
    assert!(
        with("unit", "ms")
            .starts_with("template field \"unit\" has no meaning here: unit and tolerance belong to")
    );
    let unknown = with("content", "{timestmap}.{body}");
    assert_eq!(
        unknown,
        "template field \"content\" has an unknown placeholder \"{timestmap}\"; known ones: {body}, {timestamp}, {id}, {url}, \
         {method}, {header:NAME}, {json:PATH}, {form:NAME}"
    );
}

#[test]
fn a_rejection_names_the_headers_that_are_missing() {
    let detail = |name: &str, missing: &str| {
        let scheme = &preset(name).unwrap().scheme;
        let mut vector = valid(name, "valid");
        vector.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(missing));
        vector.verify(scheme).unwrap_err().detail
    };
    assert_eq!(detail("github", "X-Hub-Signature-256"), "header X-Hub-Signature-256 is missing");
    assert_eq!(
        detail("shopify", "X-Shopify-Hmac-Sha256"),
        "header X-Shopify-Hmac-Sha256 is missing; header Shopify-Hmac-Sha256 is missing"
    );
    assert_eq!(detail("standard-webhooks", "webhook-signature"), "header webhook-signature is missing");
    assert_eq!(detail("standard-webhooks", "webhook-id"), "the delivery id is missing: header webhook-id");
    assert_eq!(
        detail("slack", "X-Slack-Request-Timestamp"),
        "the timestamp is missing: header X-Slack-Request-Timestamp"
    );
}

#[test]
fn content_without_the_body_must_be_meant() {
    let mut template = minimal();
    template["content"] = json!("{method}");
    assert_eq!(Scheme::template(&template.to_string()).unwrap_err().field, "content");
    template["covers"] = json!("body");
    assert_eq!(Scheme::template(&template.to_string()).unwrap_err().field, "covers");
    template["covers"] = json!("nothing");
    assert!(Scheme::template(&template.to_string()).is_ok());
}

#[test]
fn a_timestamp_is_given_once_in_digits_of_the_right_number() {
    for value in ["", "176436360", "17643636000", "+764363600", "1764363.00", " 1764363600"] {
        let mut vector = valid("slack", "valid");
        *vector.header("X-Slack-Request-Timestamp").unwrap() = value.into();
        assert_eq!(verify("slack", &vector), Err(Check::Timestamp), "{value:?}");
    }
    let mut vector = valid("slack", "valid");
    let again = vector.headers.iter().find(|(name, _)| name.contains("Timestamp")).unwrap().clone();
    vector.headers.push(again);
    assert_eq!(verify("slack", &vector), Err(Check::Timestamp));

    let mut vector = valid("stripe", "valid");
    vector.header("Stripe-Signature").unwrap().extend_from_slice(b",t=1764363600");
    assert_eq!(verify("stripe", &vector), Err(Check::Timestamp));
}

#[test]
fn a_repeated_signature_header_is_refused() {
    for (name, header) in [
        ("github", "X-Hub-Signature-256"),
        ("stripe", "Stripe-Signature"),
        ("docusign", "X-DocuSign-Signature-1"),
    ] {
        let mut vector = valid(name, "valid");
        let value = vector.header(header).unwrap().clone();
        vector.headers.push((header.to_lowercase(), value));
        assert_eq!(verify(name, &vector), Err(Check::Header), "{name}");
    }
}

#[test]
fn hexadecimal_of_either_case_decodes_alike() {
    let mut vector = valid("gitea", "valid");
    vector.header("X-Gitea-Signature").unwrap().make_ascii_uppercase();
    assert_eq!(verify("gitea", &vector), Ok(()));
}

#[test]
fn a_url_that_is_not_configured_is_never_built() {
    let vector = valid("square", "SDK test");
    let headers: Vec<_> =
        vector.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    let request = Request::new("POST", &headers, &vector.body);
    let secret = Secret::new(vector.secret.as_str());
    let rejection = preset("square").unwrap().scheme.verify(&[secret], &request, vector.now()).unwrap_err();
    assert_eq!((rejection.check, rejection.detail.as_str()), (Check::Content, "the request has no URL"));
}

#[test]
fn a_digit_of_the_body_cannot_be_moved_to_the_timestamp_before_it() {
    for name in ["discord", "sendgrid", "zendesk"] {
        let mut vector = valid(name, if name == "sendgrid" { "SDK test" } else { "valid" });
        vector.body.insert(0, b'1');
        assert_eq!(verify(name, &vector), Err(Check::Signature), "{name}");
        let (_, timestamp) =
            vector.headers.iter_mut().find(|(name, _)| name.to_lowercase().ends_with("timestamp")).unwrap();
        vector.body.insert(0, timestamp.pop().unwrap());
        assert_eq!(verify(name, &vector), Err(Check::Timestamp), "{name}");
    }
}

#[test]
fn zendesk_sends_xml_and_forms() {
    for body in ["<ticket><id>35436</id></ticket>", "ticket=35436&status=open", "35436", ""] {
        let mut vector = valid("zendesk", "valid");
        let timestamp = vector.header("X-Zendesk-Webhook-Signature-Timestamp").unwrap().clone();
        let mut mac = Hmac::<Sha256>::new_from_slice(vector.secret.as_bytes()).unwrap();
        mac.update(&[&timestamp, body.as_bytes()].concat());
        *vector.header("X-Zendesk-Webhook-Signature").unwrap() =
            STANDARD.encode(mac.finalize().into_bytes()).into_bytes();
        vector.body = body.into();
        assert_eq!(verify("zendesk", &vector), Ok(()), "{body}");
    }
}

#[test]
fn the_boundary_after_a_signed_id_cannot_be_moved() {
    let mut vector = valid("standard-webhooks", "valid");
    vector.secret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX".into();
    let mut mac = Hmac::<Sha256>::new_from_slice(&(0..24).collect::<Vec<u8>>()).unwrap();
    mac.update(br#"msg.1764000000.{"text":"x.1764363600.{}"}"#);
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    *vector.header("webhook-signature").unwrap() = signature.into_bytes();
    *vector.header("webhook-id").unwrap() = b"msg".to_vec();
    *vector.header("webhook-timestamp").unwrap() = b"1764000000".to_vec();
    vector.body = br#"{"text":"x.1764363600.{}"}"#.to_vec();
    assert_eq!(verify("standard-webhooks", &vector), Err(Check::Timestamp), "the genuine delivery is stale");

    *vector.header("webhook-id").unwrap() = br#"msg.1764000000.{"text":"x"#.to_vec();
    *vector.header("webhook-timestamp").unwrap() = b"1764363600".to_vec();
    vector.body = br#"{}"}"#.to_vec();
    assert_eq!(verify("standard-webhooks", &vector), Err(Check::Content), "the moved one looks fresh");
}

#[test]
fn public_keys_and_shared_secrets_are_not_confused() {
    let templates = &preset("standard-webhooks").unwrap().scheme;
    let vector = valid("standard-webhooks", "valid");
    for secret in [vector.secret.replace("whsec_", "whpk_"), "whsec_".into(), String::new(), "x".repeat(4097)]
    {
        let rejection = vector.verify_with(templates, &[Secret::new(secret)]).unwrap_err();
        assert_eq!(rejection.check, Check::Secret, "{rejection}");
    }
}

#[test]
fn the_number_of_signatures_is_bounded() {
    let mut vector = valid("standard-webhooks", "valid");
    let signature = vector.header("webhook-signature").unwrap();
    let right = String::from_utf8(signature.clone()).unwrap();
    let wrong = format!("v1,{} ", "A".repeat(43) + "=");
    *signature = (wrong.repeat(15) + &right).into_bytes();
    assert_eq!(verify("standard-webhooks", &vector), Ok(()));
    *vector.header("webhook-signature").unwrap() = (wrong.repeat(16) + &right).into_bytes();
    assert_eq!(verify("standard-webhooks", &vector), Err(Check::Header));

    let mut vector = valid("docusign", "valid");
    let present = vector.headers.iter().filter(|(name, _)| name.starts_with("X-DocuSign-Signature-")).count();
    for number in present + 1..=100 {
        vector.headers.insert(0, (format!("X-DocuSign-Signature-{number}"), b"AAAA".to_vec()));
    }
    assert_eq!(verify("docusign", &vector), Ok(()));
    vector.headers.push(("X-DocuSign-Signature-101".into(), b"AAAA".to_vec()));
    assert_eq!(verify("docusign", &vector), Err(Check::Header));
}

#[test]
fn a_repeated_name_beside_a_signed_value_is_refused() {
    let mut vector = valid("mailgun", "valid");
    let body = String::from_utf8(vector.body).unwrap();
    vector.body = body.replacen('{', r#"{"signature":{"token":"x"},"#, 1).into_bytes();
    assert_eq!(verify("mailgun", &vector), Err(Check::Header));
}

#[test]
fn a_form_field_that_is_not_signed_is_refused() {
    for added in ["&payload=x", "&extra=x", "&", "&x"] {
        let mut vector = valid("gitea-form", "form");
        vector.body.extend_from_slice(added.as_bytes());
        assert_eq!(verify("gitea-form", &vector), Err(Check::Content), "{added}");
    }
}

#[test]
fn a_stale_timestamp_is_reported_with_its_age() {
    let mut vector = valid("slack", "valid");
    *vector.header("X-Slack-Request-Timestamp").unwrap() = b"1764363239".to_vec();
    let rejection = vector.verify(&preset("slack").unwrap().scheme).unwrap_err();
    assert_eq!(rejection.to_string(), "the timestamp is 361 s old, the tolerance is 300 s");
    let mut templates = preset("slack").unwrap().scheme.clone();
    templates.set_tolerance(361).unwrap();
    assert_eq!(vector.verify(&templates).unwrap_err().check, Check::Signature);
    assert_eq!(preset("github").unwrap().scheme.clone().set_tolerance(300).unwrap_err().field, "tolerance");
}

proptest! {
    #[test]
    fn no_input_panics(
        text in "\\PC{0,200}", field in "[a-z]{1,9}", value in "\\PC{0,40}",
        header in prop::collection::vec(any::<u8>(), 0..80), body in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let _ = Scheme::template(&text);
        let mut template = minimal();
        template[field] = json!(value);
        let _ = Scheme::template(&template.to_string());
        for preset in wwproxy_protocol::scheme::presets() {
            let mut vector = super::vectors::vectors(&preset.name).remove(0);
            for (_, value) in &mut vector.headers {
                value.clone_from(&header);
            }
            let _ = vector.verify(&preset.scheme);
            vector.body.clone_from(&body);
            let _ = vector.verify(&preset.scheme);
        }
    }
}
