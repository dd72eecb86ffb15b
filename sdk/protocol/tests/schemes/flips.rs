//! Every change of a single bit in what a signature covers is refused.

use serde_json::Value;
use wwproxy_protocol::scheme::{Covers, Preset, Scheme, presets};

use super::vectors::{Vector, rows, vectors};

/// Presets which sign values of the body, not its bytes.
const SIGNS_VALUES: [&str; 5] = ["adyen-payments", "gitea-form", "mailgun", "msgraph", "twilio"];

/// Returns the smallest valid vector, without the items of its signature header that are not needed.
fn smallest(preset: &Preset, signature: &str) -> Vector {
    let valid = vectors(&preset.name).into_iter().filter(Vector::is_valid);
    let mut vector = valid.min_by_key(|vector| vector.body.len()).unwrap();
    for separator in [',', ';', ' '] {
        let Some(value) = vector.header(signature).cloned() else { continue };
        let text = String::from_utf8(value).unwrap();
        let items: Vec<_> = text.split(separator).collect();
        for left_out in 0..items.len() {
            let kept: Vec<_> = (0..items.len()).filter(|at| *at != left_out).map(|at| items[at]).collect();
            let mut less = vector.clone();
            *less.header(signature).unwrap() = kept.join(&separator.to_string()).into_bytes();
            if less.verify(&preset.scheme).is_ok() {
                vector = less;
                break;
            }
        }
    }
    vector.verify(&preset.scheme).unwrap();
    vector
}

/// Flips each bit of what `part` selects and returns the changed vectors that are accepted.
fn accepted(
    vector: &Vector,
    scheme: &Scheme,
    part: impl Fn(&mut Vector) -> &mut Vec<u8>,
) -> Vec<(u8, u8, Vector)> {
    let bits = part(&mut vector.clone()).len() * 8;
    assert!(bits > 0);
    let mut accepted = Vec::new();
    for bit in 0..bits {
        let mut flipped = vector.clone();
        let byte = &mut part(&mut flipped)[bit / 8];
        let before = *byte;
        *byte ^= 1 << (bit % 8);
        let after = *byte;
        if flipped.verify(scheme).is_ok() {
            accepted.push((before, after, flipped));
        }
    }
    accepted
}

/// Whether only the case of a hex digit differs, which decodes alike.
fn is_case_of_hex_digit(before: u8, after: u8) -> bool {
    before.eq_ignore_ascii_case(&after) && before.is_ascii_hexdigit()
}

/// The fields of the row's first template that are `header:NAME` or `header:NAME-*`.
fn header_of(name: &str, field: &str) -> Option<String> {
    let row = rows().into_iter().find(|row| row["name"] == name).unwrap();
    if (name, field) == ("twilio", "signature") {
        return Some("X-Twilio-Signature".into());
    }
    let header = row["templates"][0][field].as_str()?.strip_prefix("header:")?.to_owned();
    Some(header.replace('*', "1"))
}

#[test]
fn every_flipped_bit_of_the_body_is_refused() {
    for preset in presets().filter(|preset| !SIGNS_VALUES.contains(&preset.name.as_str())) {
        if preset.scheme.covers() == Covers::Body {
            let vector = smallest(preset, &header_of(&preset.name, "signature").unwrap());
            let accepted = accepted(&vector, &preset.scheme, |vector| &mut vector.body);
            assert!(accepted.is_empty(), "{}: {} accepted", preset.name, accepted.len());
        }
    }
}

#[test]
fn every_flipped_bit_of_the_signature_is_refused() {
    for preset in presets() {
        let Some(header) = header_of(&preset.name, "signature") else { continue };
        // Senders with alternatives: the vector may use the header of another one.
        let mut vector = smallest(preset, &header);
        let header =
            if vector.header(&header).is_some() { header } else { panic!("{}: {header}", preset.name) };
        let is_hex =
            rows().iter().any(|row| row["name"] == *preset.name && row["templates"][0]["encoding"] == "hex");
        for (before, after, _) in accepted(&vector, &preset.scheme, |vector| vector.header(&header).unwrap())
        {
            assert!(is_hex && is_case_of_hex_digit(before, after), "{}: {before} to {after}", preset.name);
        }
    }
}

#[test]
fn every_flipped_bit_of_a_covered_header_is_refused() {
    let mut count = 0;
    for preset in presets() {
        let signature = header_of(&preset.name, "signature").unwrap_or_default();
        let row = rows().into_iter().find(|row| row["name"] == *preset.name).unwrap();
        let content = row["templates"][0]["content"].as_str().unwrap_or_default().to_owned();
        for (field, placeholder) in [("timestamp", "{timestamp}"), ("id", "{id}")] {
            let Some(header) = header_of(&preset.name, field).filter(|_| content.contains(placeholder))
            else {
                continue;
            };
            let mut vector = smallest(preset, &signature);
            assert!(vector.header(&header).is_some(), "{}: {header}", preset.name);
            let accepted = accepted(&vector, &preset.scheme, |vector| vector.header(&header).unwrap());
            assert!(accepted.is_empty(), "{} {field}", preset.name);
            count += 1;
        }
    }
    // slack, zoom, discord, hubspot-v3, sendgrid, zendesk; id and timestamp of gitlab, standard-webhooks, svix
    assert_eq!(count, 12);
}

#[test]
fn every_flipped_bit_of_a_signed_url_is_refused() {
    let mut names = Vec::new();
    for preset in presets().filter(|preset| preset.scheme.needs_url()) {
        let vector = smallest(preset, &header_of(&preset.name, "signature").unwrap());
        for bit in 0..vector.url.len() * 8 {
            let mut url = vector.url.clone().into_bytes();
            url[bit / 8] ^= 1 << (bit % 8);
            let Ok(url) = String::from_utf8(url) else { continue };
            let mut other = vector.clone();
            other.url = url;
            assert!(other.verify(&preset.scheme).is_err(), "{}: {}", preset.name, other.url);
        }
        names.push(preset.name.as_str());
    }
    assert_eq!(names, ["hubspot-v3", "square", "trello", "twilio"]);
}

#[test]
fn every_flipped_bit_of_the_secret_is_refused() {
    for preset in presets() {
        let signature = header_of(&preset.name, "signature").unwrap_or_default();
        let vector = smallest(preset, &signature);
        for bit in 0..vector.secret.len() * 8 {
            let mut secret = vector.secret.clone().into_bytes();
            let before = secret[bit / 8];
            secret[bit / 8] ^= 1 << (bit % 8);
            let after = secret[bit / 8];
            let Ok(secret) = String::from_utf8(secret) else { continue };
            let mut other = vector.clone();
            other.secret = secret;
            let same_key = is_case_of_hex_digit(before, after)
                && rows()
                    .iter()
                    .any(|row| row["name"] == *preset.name && row["templates"][0]["key"] == "hex");
            assert!(same_key || other.verify(&preset.scheme).is_err(), "{} bit {bit}", preset.name);
        }
    }
}

/// The values that are signed, read by another parser than the one under test.
fn signed_values(name: &str, body: &[u8]) -> Vec<Value> {
    if ["gitea-form", "twilio"].contains(&name) {
        // Only the case of the hex digits of %XX may differ.
        let mut parts = std::str::from_utf8(body).unwrap().split('%');
        let plain = parts.next().unwrap().to_owned();
        let escaped = parts.map(|part| part[..2].to_ascii_uppercase() + &part[2..]);
        return [plain].into_iter().chain(escaped).map(Value::from).collect();
    }
    let json: Value = serde_json::from_slice(body).unwrap();
    if name == "msgraph" {
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
    for preset in presets().filter(|preset| SIGNS_VALUES.contains(&preset.name.as_str())) {
        let vector = smallest(preset, "");
        let values = signed_values(&preset.name, &vector.body);
        for (_, _, flipped) in accepted(&vector, &preset.scheme, |vector| &mut vector.body) {
            assert_eq!(signed_values(&preset.name, &flipped.body), values, "{}", preset.name);
        }
    }
}
