//! Public keys and shared secrets in one scheme: no HMAC that is keyed with a public key is accepted.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::Sha256;
use wwproxy_protocol::{
    Secret,
    scheme::{Check, Request, Scheme, presets},
};

use super::vectors::{Vector, rows, vectors};

fn is_public_key(algorithm: &Value) -> bool {
    algorithm == "ed25519" || algorithm == "ecdsa-p256-sha256"
}

/// A delivery of a preset whose first template is HMAC-SHA256 in base64, signed with a key that everybody knows.
fn forged(name: &str, template: &Value, key: &[u8]) -> Vector {
    let mut vector = vectors(name).into_iter().find(Vector::is_valid).unwrap();
    let header = |field: &str| template[field].as_str().unwrap().strip_prefix("header:").unwrap();
    let mut value = |field| String::from_utf8(vector.header(header(field)).unwrap().clone()).unwrap();
    let content = template["content"].as_str().unwrap();
    let (head, _) = content.split_once("{body}").unwrap();
    let head = head.replace("{id}", &value("id")).replace("{timestamp}", &value("timestamp"));
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(&[head.as_bytes(), &vector.body].concat());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    let prefix = template["prefix"].as_str().unwrap();
    *vector.header(header("signature")).unwrap() = format!("{prefix}{signature}").into_bytes();
    vector
}

#[test]
fn an_hmac_with_the_public_key_is_refused_by_every_preset_with_both_kinds() {
    let public_key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap().public_key().as_ref().to_vec();
    let text = STANDARD.encode(&public_key);
    let mut names = Vec::new();
    for preset in presets() {
        let row = rows().into_iter().find(|row| row["name"] == *preset.name).unwrap();
        let Some(templates) = row["templates"].as_array() else { continue };
        let kind = |public| move |one: &&Value| is_public_key(&one["algorithm"]) == public;
        let (Some(shared), Some(public)) =
            (templates.iter().find(kind(false)), templates.iter().find(kind(true)))
        else {
            continue;
        };
        let prefix =
            public["key"].as_str().unwrap().split(' ').next().unwrap().strip_prefix("strip:").unwrap();
        for secret in [text.clone(), format!("{prefix}{text}")] {
            // Keyed with the decoded key, and with its text.
            for key in [&public_key[..], text.as_bytes(), secret.as_bytes()] {
                let rejection = forged(&preset.name, shared, key)
                    .verify_with(&preset.scheme, &[Secret::new(secret.as_str())]);
                assert_eq!(rejection.unwrap_err().check, Check::Secret, "{} {secret}", preset.name);
            }
        }
        let checked = preset.scheme.check_secret(&Secret::new(text.as_str())).unwrap_err();
        assert!(checked.contains("prefix"), "{checked}");
        names.push(preset.name.as_str());
    }
    assert_eq!(names, ["standard-webhooks"]);
}

/// A list of an HMAC and an Ed25519 template with these formats of the key.
fn mixed(shared: &str, public: &str) -> Value {
    let template = |algorithm: &str, key: &str| json!({"algorithm": algorithm, "signature": "header:X-Sig", "encoding": "hex", "content": "{body}", "key": key});
    json!([template("hmac-sha256", shared), template("ed25519", public)])
}

#[test]
fn a_list_with_both_kinds_needs_prefixes_that_tell_them_apart() {
    for (shared, public) in [
        ("text", "hex"),
        ("hex", "strip:pub_ hex"),
        ("strip:key_ hex", "hex"),
        ("strip:key_ hex", "strip:key_ hex"),
        ("strip:key_ text", "strip:key_pub_ hex"),
        ("strip:key_pub_ base64", "strip:key_ hex"),
    ] {
        let error = Scheme::template(&mixed(shared, public).to_string()).unwrap_err();
        assert_eq!(error.field, "0.key", "{shared} {public}: {error}");
    }
    let token = json!({"algorithm": "token", "signature": "header:X-Token"});
    let with_token = json!([mixed("text", "strip:pub_ hex")[1], token]);
    assert_eq!(Scheme::template(&with_token.to_string()).unwrap_err().field, "0.key");
    let public_only = json!([mixed("", "hex")[1], mixed("", "base64")[1]]);
    assert!(Scheme::template(&public_only.to_string()).is_ok());
}

#[test]
fn a_secret_is_used_only_by_the_template_of_its_kind() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let public_key = pair.public_key().as_ref();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let scheme = Scheme::template(&mixed("strip:key_ hex", "strip:pub_ hex").to_string()).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(public_key).unwrap();
    mac.update(b"{}");
    let (hmac, signature) = (hex(&mac.finalize().into_bytes()), hex(pair.sign(b"{}").as_ref()));
    let accepts = |prefix: &str, signature: &str| {
        let headers = [("X-Sig", signature.as_bytes())];
        let secret = Secret::new(format!("{prefix}{}", hex(public_key)));
        scheme.verify(&[secret], &Request::new("POST", &headers, b"{}"), std::time::UNIX_EPOCH).is_ok()
    };
    assert!(accepts("pub_", &signature));
    assert!(accepts("key_", &hmac), "a shared secret is any text");
    for (prefix, signature) in [("", &hmac), ("pub_", &hmac), ("", &signature), ("key_", &signature)] {
        assert!(!accepts(prefix, signature), "{prefix}");
    }
    let generated = scheme.generate_secret().unwrap();
    assert!(generated.expose().starts_with("key_"));
    assert_eq!(scheme.check_secret(&generated), Ok(()));
    let reason = scheme.check_secret(&Secret::new("key_xyz")).unwrap_err();
    assert_eq!(reason, "it is not hexadecimal");
}
