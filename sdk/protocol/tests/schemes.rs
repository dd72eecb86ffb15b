//! Verification of webhooks against deliveries and challenges of their senders.

#[path = "schemes/boundaries.rs"]
mod boundaries;
#[path = "schemes/challenges.rs"]
mod challenges;
#[path = "schemes/cost.rs"]
mod cost;
#[path = "schemes/every_preset.rs"]
mod every_preset;
#[path = "schemes/flips.rs"]
mod flips;
#[path = "schemes/key_kinds.rs"]
mod key_kinds;
#[path = "schemes/mutants.rs"]
mod mutants;
#[path = "schemes/rules.rs"]
mod rules;
#[path = "schemes/sign.rs"]
mod sign;
#[path = "schemes/twilio.rs"]
mod twilio;
#[path = "schemes/vectors.rs"]
mod vectors;

use vectors::{Gives, vectors};
use wwproxy_protocol::{
    Secret,
    scheme::{Covers, preset, presets},
};

#[test]
fn every_vector_is_accepted_or_rejected_as_expected() {
    let (mut accepted, mut rejected, mut wrong) = (0, 0, Vec::new());
    for preset in presets() {
        for vector in vectors(&preset.name) {
            match (vector.verify(&preset.scheme), vector.is_valid()) {
                (Ok(verified), true) => {
                    let gives =
                        Gives { id: verified.delivery_id.map(|id| id.value), event: verified.event_type };
                    if gives != vector.gives {
                        wrong.push(format!(
                            "{}, {}: gives {gives:?}, not {:?}",
                            preset.name, vector.name, vector.gives
                        ));
                    }
                    accepted += 1;
                }
                (Err(rejection), false) => {
                    let shown = format!("{rejection} {rejection:?}");
                    assert!(!shown.contains(&vector.secret), "{}, {}: {shown}", preset.name, vector.name);
                    rejected += 1;
                }
                (verdict, _) => wrong.push(format!("{}, {}: {verdict:?}", preset.name, vector.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((presets().count(), accepted, rejected), (47, 116, 255));
}

#[test]
fn the_tolerance_of_a_vector_is_the_default_of_its_preset() {
    for preset in presets() {
        for vector in vectors(&preset.name) {
            let default = preset.scheme.tolerance().map(|tolerance| tolerance.as_secs());
            assert_eq!(vector.tolerance, default, "{}, {}", preset.name, vector.name);
        }
    }
}

#[test]
fn every_preset_names_its_source_and_its_success_status() {
    for preset in presets() {
        assert!(preset.source.len() > 5, "{}", preset.name);
        assert!([200, 201, 204].contains(&preset.scheme.success()), "{}", preset.name);
    }
    assert_eq!(preset("watsonwork").unwrap().scheme.success(), 201);
    assert_eq!(preset("discord").unwrap().scheme.success(), 204);
    let bare: Vec<_> = presets()
        .filter(|preset| preset.scheme.covers() == Covers::Nothing)
        .map(|preset| &preset.name)
        .collect();
    assert_eq!(bare, ["adyen-payments", "gitlab-token", "mailgun", "msgraph", "okta", "telegram"]);
}

#[test]
fn every_secret_is_tried_and_the_number_of_the_right_one_returned() {
    for preset in presets() {
        let vector = vectors(&preset.name).into_iter().find(vectors::Vector::is_valid).unwrap();
        let (other, right) = (Secret::new("bm90IHRoaXMgb25l"), Secret::new(vector.secret.as_str()));
        let secrets = [other.clone(), other.clone(), right, other];
        let verified = vector.verify_with(&preset.scheme, &secrets).unwrap();
        assert_eq!(verified.secret, 3, "{}", preset.name);
        assert!(vector.verify_with(&preset.scheme, &secrets[..2]).is_err(), "{}", preset.name);
        assert!(vector.verify_with(&preset.scheme, &[]).is_err(), "{}", preset.name);
        let five: Vec<_> = std::iter::repeat_n(secrets[2].clone(), 5).collect();
        assert!(vector.verify_with(&preset.scheme, &five).is_err(), "{}", preset.name);
    }
}

#[test]
fn gitea_and_forgejo_accept_the_form_content_type() {
    for vector in vectors("gitea-form") {
        for name in ["gitea", "forgejo"] {
            let accepted = vector.verify(&preset(name).unwrap().scheme).is_ok();
            // The bytes of the form under the right secret are a valid signature of the other template.
            let signs_raw_bytes = vector.name.contains("raw form bytes");
            assert_eq!(accepted, vector.is_valid() || signs_raw_bytes, "{name}: {}", vector.name);
        }
    }
}

#[test]
fn the_delivery_id_says_whether_it_is_signed() {
    for (name, covered) in [
        ("github", false),
        ("standard-webhooks", true),
        ("stripe", true),
        ("hubspot-v3", true),
        ("sendgrid", true),
        ("mailgun", false),
        ("telegram", false),
    ] {
        let vector = vectors::valid(name, if name == "sendgrid" { "SDK test" } else { "valid" });
        let id = vector.verify(&preset(name).unwrap().scheme).unwrap().delivery_id.unwrap();
        assert_eq!(id.covered, covered, "{name}");
    }
}
