//! Broken verifiers, made by changing the templates: each is caught by a vector.

use serde_json::{Value, json};
use wwproxy_protocol::scheme::Scheme;

use super::vectors::{rows, vectors};

/// Changes the templates of each preset and returns the presets for which a vector gets the wrong verdict.
fn caught(change: impl Fn(&mut Vec<Value>)) -> (Vec<String>, Vec<String>) {
    let (mut caught, mut missed) = (Vec::new(), Vec::new());
    for row in rows() {
        let name = row["name"].as_str().unwrap().to_owned();
        let Some(before) = row["templates"].as_array().cloned() else { continue };
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            continue;
        }
        let mutant = Scheme::template(&Value::Array(after).to_string())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let wrong = vectors(&name).iter().any(|vector| vector.verify(&mutant).is_ok() != vector.is_valid());
        if wrong { caught.push(name) } else { missed.push(name) }
    }
    (caught, missed)
}

#[test]
fn a_verifier_without_a_tolerance_is_caught() {
    let (caught, _) = caught(|templates| {
        for template in templates {
            if template["tolerance"].is_u64() {
                template["tolerance"] = Value::Null;
            }
        }
    });
    for name in ["gitlab", "slack", "standard-webhooks", "svix", "mailgun"] {
        assert!(caught.iter().any(|other| other == name), "{name}: {caught:?}");
    }
}

#[test]
fn a_verifier_that_takes_a_signature_without_its_prefix_is_caught() {
    let (caught, _) = caught(|templates| {
        let first = &mut templates[0];
        if first["algorithm"] == "hmac-sha256"
            && first["prefix"].is_string()
            && first["timestamp"] != "item:t="
        {
            let mut without = first.clone();
            without.as_object_mut().unwrap().remove("prefix");
            templates.truncate(1);
            templates.push(without);
        }
    });
    for name in ["github", "gitlab", "slack", "standard-webhooks", "svix"] {
        assert!(caught.iter().any(|other| other == name), "{name}: {caught:?}");
    }
}

#[test]
fn a_verifier_that_reads_the_first_item_only_is_caught() {
    let (caught, _) = caught(|templates| {
        for template in templates {
            if template["split"].is_string() && !template["timestamp"].to_string().contains("item:") {
                template.as_object_mut().unwrap().remove("split");
            }
        }
    });
    for name in ["standard-webhooks", "pagerduty-v3"] {
        assert!(caught.iter().any(|other| other == name), "{name}: {caught:?}");
    }
}

#[test]
fn a_verifier_that_signs_the_body_only_is_caught_for_every_preset() {
    let (caught, missed) = caught(|templates| {
        for template in templates {
            if template["algorithm"] != "token" && template["content"] != "{body}" {
                let fields = template.as_object_mut().unwrap();
                fields.insert("content".into(), json!("{body}"));
                fields.insert("covers".into(), json!("body"));
                for field in ["timestamp", "unit", "tolerance"] {
                    fields.remove(field);
                }
            }
        }
    });
    assert!(caught.len() >= 15, "{caught:?}");
    // Their vectors use the JSON content type, which the first template verifies.
    assert_eq!(missed, ["gitea", "forgejo"]);
}
