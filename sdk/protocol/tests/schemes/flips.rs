//! Every change of a single bit in what a signature covers is refused, for each alternative of each preset.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use wwproxy_protocol::{
    Secret,
    scheme::{Preset, Scheme, Unsigned, presets},
};

use super::vectors::{Vector, rows, vectors};

/// A valid delivery, signed as one alternative of a preset says.
struct Case {
    name: String,
    /// The alternative. Null if code verifies.
    template: Value,
    /// With all alternatives of the preset: what one refuses no other may accept.
    scheme: Scheme,
    vector: Vector,
}

fn cases() -> Vec<Case> {
    let rows = rows();
    let mut cases = Vec::new();
    for preset in presets() {
        let row = rows.iter().find(|row| row["name"] == *preset.name).unwrap();
        let code = [Value::Null];
        let templates = row["templates"].as_array().map_or(&code[..], Vec::as_slice);
        for (number, template) in (1..).zip(templates) {
            let mut case = Case {
                name: format!("{}, alternative {number}", preset.name),
                template: template.clone(),
                scheme: preset.scheme.clone(),
                vector: if number == 1 { smallest(preset) } else { signed(template) },
            };
            case.leave_out_items();
            case.vector.verify(&case.scheme).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            cases.push(case);
        }
    }
    cases
}

/// The smallest delivery of the sender.
fn smallest(preset: &Preset) -> Vector {
    let valid = vectors(&preset.name).into_iter().filter(Vector::is_valid);
    valid.min_by_key(|vector| vector.body.len()).unwrap()
}

/// A delivery for an alternative of which the fixtures have none.
fn signed(template: &Value) -> Vector {
    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const NOW: u64 = 1_764_363_600;
    let alone = Scheme::template(&template.to_string()).unwrap();
    let private = match template["key"].as_str() {
        Some("strip:whsec_ base64") => format!("whsec_{KEY}"),
        _ => KEY.to_owned(),
    };
    let private = Secret::new(private);
    let secret = match template["algorithm"].as_str().unwrap() {
        "ed25519" => alone.public_key(&private).unwrap(),
        _ => private.expose().to_owned(),
    };
    let (kind, body) = if template["content"].as_str().unwrap().contains("{form:") {
        ("application/x-www-form-urlencoded", "payload=%7B%22n%22%3A1%7D")
    } else {
        ("application/json", r#"{"n":1}"#)
    };
    let headers = [("Content-Type", kind)];
    let unsigned = Unsigned {
        method: "POST",
        url: None,
        headers: &headers,
        body: body.as_bytes(),
        delivery_id: "d-1",
        event_type: Some("push"),
        time: UNIX_EPOCH + Duration::from_secs(NOW),
    };
    let signed = alone.sign(&private, &unsigned).unwrap();
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter();
    let headers = headers.chain(signed.headers).map(|(name, value)| (name, value.into_bytes())).collect();
    let vector = Vector {
        name: "signed by the test".into(),
        secret,
        url: String::new(),
        method: "POST".into(),
        headers,
        body: body.into(),
        expect: "valid".into(),
        now: Some(NOW),
        tolerance: None,
        gives: super::Gives::default(),
    };
    vector.verify(&alone).unwrap();
    vector
}

impl Case {
    /// The header that a field of the template names: `header:NAME` or `header:NAME-*`.
    fn header(&self, field: &str) -> Option<String> {
        if self.name.starts_with("twilio,") && field == "signature" {
            return Some("X-Twilio-Signature".into());
        }
        Some(self.template[field].as_str()?.strip_prefix("header:")?.replace('*', "1"))
    }

    fn signs(&self, placeholder: &str) -> bool {
        self.template["content"].as_str().is_some_and(|content| content.contains(placeholder))
    }

    /// Whether values of the body are signed, not its bytes.
    fn signs_values(&self) -> bool {
        self.template["algorithm"] != "token" && !self.signs("{body}")
    }

    /// Leaves out the items of the signature header that are not needed.
    fn leave_out_items(&mut self) {
        let Some(signature) = self.header("signature") else { return };
        for separator in [',', ';', ' '] {
            let value =
                self.vector.header(&signature).unwrap_or_else(|| panic!("{}: {signature}", self.name));
            let text = String::from_utf8(value.clone()).unwrap();
            let items: Vec<_> = text.split(separator).collect();
            for left_out in 0..items.len() {
                let kept: Vec<_> =
                    (0..items.len()).filter(|at| *at != left_out).map(|at| items[at]).collect();
                let mut less = self.vector.clone();
                *less.header(&signature).unwrap() = kept.join(&separator.to_string()).into_bytes();
                if less.verify(&self.scheme).is_ok() {
                    self.vector = less;
                    break;
                }
            }
        }
    }

    /// Flips each bit of what `part` selects and returns the changed vectors that are accepted.
    fn accepted(&self, part: impl Fn(&mut Vector) -> &mut Vec<u8>) -> Vec<(u8, u8, Vector)> {
        let bits = part(&mut self.vector.clone()).len() * 8;
        assert!(bits > 0, "{}", self.name);
        let mut accepted = Vec::new();
        for bit in 0..bits {
            let mut flipped = self.vector.clone();
            let byte = &mut part(&mut flipped)[bit / 8];
            let before = *byte;
            *byte ^= 1 << (bit % 8);
            let after = *byte;
            if flipped.verify(&self.scheme).is_ok() {
                accepted.push((before, after, flipped));
            }
        }
        accepted
    }
}

/// Whether only the case of a hex digit differs, which decodes alike.
fn is_case_of_hex_digit(before: u8, after: u8) -> bool {
    before.eq_ignore_ascii_case(&after) && before.is_ascii_hexdigit()
}

#[test]
fn every_alternative_is_a_case() {
    let names: Vec<_> =
        cases().into_iter().map(|case| case.name).filter(|name| !name.ends_with(" 1")).collect();
    let expected =
        ["forgejo 2", "forgejo 3", "forgejo 4", "gitea 2", "shopify 2", "standard-webhooks 2", "svix 2"];
    assert_eq!(names, expected.map(|name| name.replace(' ', ", alternative ")));
}

#[test]
fn every_flipped_bit_of_the_body_is_refused() {
    for case in cases().iter().filter(|case| case.signs("{body}")) {
        let accepted = case.accepted(|vector| &mut vector.body);
        assert!(accepted.is_empty(), "{}: {} accepted", case.name, accepted.len());
    }
}

#[test]
fn every_flipped_bit_of_the_signature_is_refused() {
    for case in cases() {
        let Some(header) = case.header("signature") else { continue };
        let is_hex = case.template["encoding"] == "hex";
        for (before, after, _) in case.accepted(|vector| vector.header(&header).unwrap()) {
            assert!(is_hex && is_case_of_hex_digit(before, after), "{}: {before} to {after}", case.name);
        }
    }
}

#[test]
fn every_flipped_bit_of_a_covered_header_is_refused() {
    let mut count = 0;
    for case in cases() {
        for (field, placeholder) in [("timestamp", "{timestamp}"), ("id", "{id}")] {
            let Some(header) = case.header(field).filter(|_| case.signs(placeholder)) else { continue };
            let accepted = case.accepted(|vector| vector.header(&header).unwrap());
            assert!(accepted.is_empty(), "{} {field}", case.name);
            count += 1;
        }
    }
    // slack, zoom, discord, hubspot-v3, sendgrid, zendesk; id and timestamp of gitlab and both of standard-webhooks and svix
    assert_eq!(count, 16);
}

#[test]
fn every_flipped_bit_of_a_signed_url_is_refused() {
    let mut names = Vec::new();
    for case in cases().into_iter().filter(|case| case.scheme.needs_url()) {
        for bit in 0..case.vector.url.len() * 8 {
            let mut url = case.vector.url.clone().into_bytes();
            url[bit / 8] ^= 1 << (bit % 8);
            let Ok(url) = String::from_utf8(url) else { continue };
            let mut other = case.vector.clone();
            other.url = url;
            assert!(other.verify(&case.scheme).is_err(), "{}: {}", case.name, other.url);
        }
        names.push(case.scheme.name().to_owned());
    }
    assert_eq!(names, ["hubspot-v3", "square", "trello", "twilio"]);
}

#[test]
fn every_flipped_bit_of_the_secret_is_refused() {
    for case in cases() {
        for bit in 0..case.vector.secret.len() * 8 {
            let mut secret = case.vector.secret.clone().into_bytes();
            let before = secret[bit / 8];
            secret[bit / 8] ^= 1 << (bit % 8);
            let after = secret[bit / 8];
            let Ok(secret) = String::from_utf8(secret) else { continue };
            let mut other = case.vector.clone();
            other.secret = secret;
            let same_key = is_case_of_hex_digit(before, after) && case.template["key"] == "hex";
            assert!(same_key || other.verify(&case.scheme).is_err(), "{} bit {bit}", case.name);
        }
    }
}

/// The values that are signed, read by another parser than the one under test.
fn signed_values(case: &Case, body: &[u8]) -> Vec<Value> {
    if case.signs("{form:") || case.scheme.name() == "twilio" {
        // Only the case of the hex digits of %XX may differ.
        let mut parts = std::str::from_utf8(body).unwrap().split('%');
        let plain = parts.next().unwrap().to_owned();
        let escaped = parts.map(|part| part[..2].to_ascii_uppercase() + &part[2..]);
        return [plain].into_iter().chain(escaped).map(Value::from).collect();
    }
    let json: Value = serde_json::from_slice(body).unwrap();
    if case.scheme.name() == "msgraph" {
        let items = json["value"].as_array().unwrap().iter();
        return items.map(|item| item["clientState"].clone()).collect();
    }
    let item = &json["notificationItems"][0]["NotificationRequestItem"];
    let signature = &json["signature"];
    let (of_item, of_amount) = (
        [
            "pspReference",
            "originalReference",
            "merchantAccountCode",
            "merchantReference",
            "eventCode",
            "success",
        ],
        ["value", "currency"],
    );
    let mut values: Vec<_> = of_item.iter().map(|field| item[field].clone()).collect();
    values.extend(of_amount.iter().map(|field| item["amount"][field].clone()));
    values.extend(["timestamp", "token"].iter().map(|field| signature[field].clone()));
    // Hexadecimal decodes alike in either case, base64 does not.
    values.push(item["additionalData"]["hmacSignature"].clone());
    values.push(signature["signature"].as_str().map(str::to_ascii_lowercase).into());
    values
}

#[test]
fn a_flipped_bit_of_a_body_whose_values_are_signed_leaves_the_values_as_they_were() {
    let mut names = Vec::new();
    for case in cases().into_iter().filter(Case::signs_values) {
        let values = signed_values(&case, &case.vector.body);
        for (_, _, flipped) in case.accepted(|vector| &mut vector.body) {
            assert_eq!(signed_values(&case, &flipped.body), values, "{}", case.name);
        }
        names.push(case.scheme.name().to_owned());
    }
    let expected =
        ["adyen-payments", "forgejo", "forgejo", "gitea", "gitea-form", "mailgun", "msgraph", "twilio"];
    assert_eq!(names, expected);
}
