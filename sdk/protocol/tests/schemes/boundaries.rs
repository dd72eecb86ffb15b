//! No byte can be moved from one part of a signed content to the next, and no webhook that was signed for one alternative can be
//! sent as another.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::{Value, json};
use wwproxy_protocol::{
    Secret,
    scheme::{Check, Request, Scheme, presets},
    sign_watson_work,
};

use super::vectors::rows;

fn template(content: &str) -> Value {
    json!({
        "algorithm": "hmac-sha256", "signature": "header:X-Sig", "encoding": "hex", "content": content,
        "covers": if content.contains("{body}") { "body" } else { "nothing" },
    })
}

/// A template with an id and a timestamp.
fn full(content: &str) -> Value {
    let mut template = template(content);
    template["id"] = "header:X-Id".into();
    if content.contains("{timestamp}") {
        template["timestamp"] = "header:X-Time".into();
    }
    template
}

fn parse(template: &Value) -> Result<Scheme, String> {
    Scheme::template(&template.to_string()).map_err(|error| error.to_string())
}

#[test]
fn parts_of_variable_length_need_a_separator_between_them() {
    for content in [
        "{id}{body}",
        "{body}{id}",
        "{header:X-A}{header:X-B}.{body}",
        "{id}{timestamp}.{body}",
        "{id}{timestamp}{body}",
        "{id}.{body}{header:X-A}",
        "{json:a}{json:b}",
        "{url}{header:X-A}{method}.{body}",
    ] {
        let error = parse(&full(content)).expect_err(content);
        assert!(error.contains("\"content\" needs a separator"), "{content}: {error}");
    }
    for content in [
        "{id}.{body}",
        "{body}.{id}",
        "{id}.{timestamp}{body}",
        "{timestamp}{body}",
        "{body}{timestamp}",
        "{method}{url}{body}{timestamp}",
        "{method}{url}{timestamp}{header:X-A}.{body}.{header:X-B}",
        "{json:a}.{json:b*}.{json:c}",
    ] {
        parse(&full(content)).unwrap_or_else(|error| panic!("{content}: {error}"));
    }
    assert_eq!(presets().count(), 47, "all presets are parsed");
}

#[test]
fn only_one_value_may_contain_separators() {
    for content in
        ["{json:a*}.{json:b*}", "{header:X-A*}.{body}", "{id*}.{body}", "{body*}", "{url*}.{json:a}"]
    {
        let error = parse(&full(content)).expect_err(content);
        assert!(error.contains("at most one *"), "{content}: {error}");
    }
}

/// Whether a request of these headers and this body is accepted, if `signed` was signed.
fn verify(template: &Value, headers: &[(&str, &str)], body: &str, signed: &str) -> Result<(), Check> {
    let secret = Secret::new("secret");
    let signature = sign_watson_work(&secret, signed.as_bytes());
    let signature = ("X-Sig", signature.as_bytes());
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| (*name, value.as_bytes())).chain([signature]).collect();
    let request = Request::new("POST", &headers, body.as_bytes());
    let verified = parse(template).unwrap().verify(&[secret], &request, UNIX_EPOCH);
    verified.map(drop).map_err(|rejection| rejection.check)
}

#[test]
fn a_value_with_its_separator_is_refused_on_both_sides_of_the_body() {
    for (content, id, body, signed, expected) in [
        ("{id}.{body}", "7", "a.b", "7.a.b", Ok(())),
        ("{id}.{body}", "7.a", "b", "7.a.b", Err(Check::Content)),
        ("{body}.{id}", "7", "a.b", "a.b.7", Ok(())),
        ("{body}.{id}", "b.7", "a", "a.b.7", Err(Check::Content)),
        // The separator begins in the value.
        ("{id}..{body}", "7", ".a", "7...a", Ok(())),
        ("{id}..{body}", "7.", "a", "7...a", Err(Check::Content)),
        ("{body}..{id}", "7", "a.", "a...7", Ok(())),
        ("{body}..{id}", ".7", "a", "a...7", Err(Check::Content)),
    ] {
        assert_eq!(verify(&full(content), &[("X-Id", id)], body, signed), expected, "{content} {id} {body}");
    }
}

#[test]
fn a_signed_member_of_the_body_may_not_contain_its_separator_unless_it_is_the_last_or_marked() {
    for (content, a, b, c, expected) in [
        ("{json:a}:{json:b}:{json:c}", "1", "2", "3:4", Ok(())),
        ("{json:a}:{json:b}:{json:c}", "1", "2:3", "4", Err(Check::Content)),
        ("{json:a}:{json:b}:{json:c}", "1:2", "3", "4", Err(Check::Content)),
        ("{json:a}:{json:b*}:{json:c}", "1", "2:3", "4", Ok(())),
        ("{json:a}:{json:b*}:{json:c}", "1", "2", "3:4", Err(Check::Content)),
        ("{json:a}:{json:b*}:{json:c}", "1:2", "3", "4", Err(Check::Content)),
    ] {
        let body = json!({"a": a, "b": b, "c": c}).to_string();
        assert_eq!(verify(&template(content), &[], &body, "1:2:3:4"), expected, "{content} {body}");
    }
}

/// A timestamp of a unit, near the forms that its parser might accept as well.
fn timestamp(unit: &str) -> BoxedStrategy<String> {
    match unit {
        "s" => "[0-9]{10}".boxed(),
        "ms" => "[0-9]{13}".boxed(),
        _ => "(19|20)[7-9][0-9]-0[1-9]-[0-2][1-8]T[01][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?Z".boxed(),
    }
}

proptest! {
    /// Of all ways to cut the signed bytes into a timestamp and a body, only the sender's is accepted.
    #[test]
    fn no_byte_moves_between_a_timestamp_and_a_body(
        (unit, timestamp) in prop::sample::select(&["s", "ms", "rfc3339"][..])
            .prop_flat_map(|unit| (Just(unit), timestamp(unit))),
        body in prop_oneof![
            "[0-9.TZ:+-]{0,30}",
            "[0-9Z]{0,5}(Z|\\+00:00)",
            "[0-9]{0,3}2025-11-29T00:00:00(\\.5)?Z?",
            "\\PC{0,10}",
        ],
        is_first in any::<bool>(),
    ) {
        let mut template = full(if is_first { "{timestamp}{body}" } else { "{body}{timestamp}" });
        template["unit"] = unit.into();
        template["tolerance"] = Value::Null;
        let signed = if is_first { format!("{timestamp}{body}") } else { format!("{body}{timestamp}") };
        let cuts = (0..=signed.len()).filter_map(|at| signed.split_at_checked(at));
        let cuts = cuts.map(|(head, tail)| if is_first { (head, tail) } else { (tail, head) });
        let accepted: Vec<_> =
            cuts.filter(|(time, body)| verify(&template, &[("X-Time", time)], body, &signed).is_ok()).collect();
        prop_assert_eq!(accepted, [(timestamp.as_str(), body.as_str())]);
    }
}

#[test]
fn a_timestamp_of_rfc_3339_ends_with_its_only_z() {
    let mut template = full("{timestamp}{body}");
    template["unit"] = "rfc3339".into();
    template["tolerance"] = Value::Null;
    let check = |time: &str| verify(&template, &[("X-Time", time)], "{}", &format!("{time}{{}}"));
    for time in ["2025-11-28T21:00:00Z", "2025-11-28T21:00:00.5Z", "2025-11-28T21:00:00.123456789Z"] {
        assert_eq!(check(time), Ok(()), "{time}");
    }
    for time in [
        "2025-11-28T21:00:00Z123Z",
        "2025-11-28T21:00:00.1+1234Z",
        "2025-11-28T21:00:00+00:00",
        "2025-11-28T21:00:00.Z",
        "2025-11-28T21:00:00.1234567890Z",
        "2025-11-28T21:00:00",
        "2025-11-28 21:00:00Z",
    ] {
        assert_eq!(check(time), Err(Check::Timestamp), "{time}");
    }
}

#[test]
fn alternatives_of_one_algorithm_have_one_content() {
    let with = |content: &str, changes: &[(&str, &str)]| {
        let mut template = full(content);
        for (field, value) in changes {
            template[*field] = (*value).into();
        }
        template
    };
    let ms = [("unit", "ms")];
    let time = [("timestamp", "json:time")];
    let sha1 = [("algorithm", "hmac-sha1")];
    let (one_key, other_key) = ([("key", "strip:one_ text")], [("key", "strip:other_ text")]);
    for (alternatives, refused) in [
        ([with("{timestamp}.{body}", &[]), with("{body}", &[])], true),
        ([with("{header:X-A}.{body}", &[]), with("{header:X-B}.{body}", &[])], true),
        ([with("{form:a}", &[]), with("{form:b}", &[])], true),
        ([with("{json:a*}.{json:b}", &[]), with("{json:a}.{json:b*}", &[])], true),
        ([with("{timestamp}{body}", &[]), with("{timestamp}{body}", &ms)], true),
        ([with("{body}", &[]), with("{form:a?}", &[])], true),
        ([with("{body}", &time), with("{body}", &[])], true),
        ([with("{body}", &time), with("{form:a}", &[])], true),
        ([with("{timestamp}.{body}", &one_key), with("{body}", &[])], true),
        ([with("{timestamp}.{body}", &one_key), with("{body}", &one_key)], true),
        ([with("{timestamp}.{body}", &one_key), with("{body}", &other_key)], false),
        ([with("{timestamp}.{body}", &[]), with("{body}", &sha1)], false),
        (
            [with("{timestamp}.{body}", &[]), with("{timestamp}.{body}", &[("signature", "header:X-New")])],
            false,
        ),
        ([with("{id}.{body}", &[]), with("{id}.{body}", &[("id", "header:X-New")])], false),
        ([with("{body}", &[]), with("{form:a}", &[])], false),
    ] {
        let list = json!(alternatives);
        let error = parse(&list).err();
        let expected = "\"1.content\" must sign the same as 0.content";
        assert_eq!(error.is_some(), refused, "{list}: {error:?}");
        assert!(error.is_none_or(|error| error.contains(expected)), "{list}");
    }
    let list =
        json!([with("{body}", &sha1), with("{body}", &[]), with("{body}", &sha1), with("{id}.{body}", &[])]);
    let error = parse(&list).unwrap_err();
    assert!(error.contains("\"3.content\" must sign the same as 1.content"), "{error}");
    assert!(error.contains("1.key and 3.key as strip:PREFIX"), "{error}");
}

#[test]
fn a_secret_with_a_prefix_is_used_by_its_alternative_only() {
    let list = [("{timestamp}.{body}", "strip:one_ text"), ("{body}", "strip:other_ text")];
    let list = list.map(|(content, key)| {
        let mut template = full(content);
        template["key"] = key.into();
        template
    });
    let scheme = parse(&json!(list)).unwrap();
    let verify = |secret: &str, headers: &[(&str, &str)], body: &str| {
        let signature = sign_watson_work(&Secret::new("secret"), b"1764363600.{}");
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let headers = [&headers[..], &[("X-Sig", signature.as_bytes())]].concat();
        let now = UNIX_EPOCH + Duration::from_secs(1_764_363_600);
        let request = Request::new("POST", &headers, body.as_bytes());
        scheme.verify(&[Secret::new(secret)], &request, now).is_ok()
    };
    assert!(verify("one_secret", &[("X-Time", "1764363600")], "{}"));
    assert!(!verify("one_secret", &[], "1764363600.{}"), "a webhook without its timestamp");
    assert!(verify("other_secret", &[], "1764363600.{}"));
    assert!(!verify("secret", &[], "1764363600.{}"), "a secret must have a prefix");
}

/// The alternatives of these presets sign the same: the same content, with names of headers for the same roles, or the document
/// as the body or as the only field of a form. Those of `standard-webhooks` have keys of their own.
#[test]
fn the_presets_with_alternatives_keep_the_rules_of_a_list() {
    let mut names = Vec::new();
    for row in rows() {
        let Some(list) = row["templates"].as_array().filter(|list| list.len() > 1) else { continue };
        let name = row["name"].as_str().unwrap().to_owned();
        for one in list {
            for other in list {
                let pair = json!([one, other]);
                assert!(parse(&pair).is_ok(), "{name}: {pair}");
            }
        }
        names.push(name);
    }
    assert_eq!(names, ["gitea", "forgejo", "shopify", "standard-webhooks", "svix"]);
}

#[test]
fn a_timestamp_is_compared_with_the_clock_unless_the_template_says_no_limit() {
    let verify = |tolerance: Option<Value>, age: u64| {
        let mut template = full("{timestamp}.{body}");
        if let Some(tolerance) = tolerance {
            template["tolerance"] = tolerance;
        }
        let scheme = parse(&template).unwrap();
        let secret = Secret::new("secret");
        let signature = sign_watson_work(&secret, b"1764363600.{}");
        let headers: [(&str, &[u8]); 2] = [("X-Sig", signature.as_bytes()), ("X-Time", b"1764363600")];
        let now: SystemTime = UNIX_EPOCH + Duration::from_secs(1_764_363_600 + age);
        let verified = scheme.verify(&[secret], &Request::new("POST", &headers, b"{}"), now);
        verified.map(drop).map_err(|rejection| rejection.check)
    };
    assert_eq!(verify(None, 300), Ok(()));
    assert_eq!(verify(None, 301), Err(Check::Timestamp));
    assert_eq!(verify(Some(json!(60)), 61), Err(Check::Timestamp));
    assert_eq!(verify(Some(Value::Null), 1_000_000), Ok(()));
}
