//! The outcome of a verification, for people and as JSON. It holds neither a secret nor an expected signature.

use std::time::SystemTime;

use serde_json::{Value, json};
use wwproxy_sdk::{
    sanitize,
    scheme::{Rejection, Scheme, Verified},
    sha256_hex,
};

use crate::{scheme::covers_in_words, table::labelled};

/// The width of the column of names, in characters.
const NAME_WIDTH: usize = 9;

/// What was verified.
pub(super) struct Report<'a> {
    pub(super) scheme: &'a Scheme,
    /// The number of secrets that were tried.
    pub(super) secrets: usize,
    pub(super) now: SystemTime,
    pub(super) body: &'a [u8],
}

impl Report<'_> {
    pub(super) fn text(&self, result: &Result<Verified, Rejection>) -> String {
        let outcome = match result {
            Ok(verified) => self.valid(verified),
            Err(rejection) => self.invalid(rejection),
        };
        let common = labelled(
            NAME_WIDTH,
            &[
                ("scheme", Some(self.scheme.name().to_owned())),
                ("secrets", Some(self.secrets.to_string())),
                ("time", Some(self.time())),
                ("body", Some(format!("{} bytes, SHA-256 {}", self.body.len(), sha256_hex(self.body)))),
            ],
        );
        outcome + &common
    }

    fn valid(&self, verified: &Verified) -> String {
        let id = verified.delivery_id.as_ref().map(|id| {
            let signed = if id.covered { "signed" } else { "not signed" };
            format!("{} ({signed})", id.value)
        });
        let rows = labelled(
            NAME_WIDTH,
            &[
                ("signed", Some(verified.signed.clone())),
                ("covers", Some(covers_in_words(verified.covers).to_owned())),
                ("type", verified.event_type.clone()),
                ("id", id),
            ],
        );
        format!("valid: signed with secret {} of {}\n{rows}", verified.secret, self.secrets)
    }

    fn invalid(&self, rejection: &Rejection) -> String {
        let alternatives = self.scheme.describe();
        let signatures = alternatives.iter().map(|one| one.signature.as_str()).collect();
        let rows = labelled(
            NAME_WIDTH,
            &[
                ("check", json!(rejection.check).as_str().map(str::to_owned)),
                ("expected", Some(distinct(signatures))),
                ("signed", Some(self.signed_content())),
            ],
        );
        format!("not valid: {}\n{rows}", sanitize(&rejection.detail))
    }

    pub(super) fn json(&self, result: &Result<Verified, Rejection>) -> Value {
        let mut all = match result {
            Ok(verified) => json!({
                "valid": true,
                "secret": verified.secret,
                "signed": verified.signed,
                "covers": verified.covers,
                "type": verified.event_type,
                "deliveryId": verified.delivery_id.as_ref().map(|id| &id.value),
            }),
            Err(rejection) => {
                json!({
                    "valid": false,
                    "check": rejection.check,
                    "detail": rejection.detail,
                    "signed": self.signed_content(),
                })
            }
        };
        all["scheme"] = self.scheme.name().into();
        all["secrets"] = self.secrets.into();
        all["at"] = self.time().into();
        all["bytes"] = self.body.len().into();
        all["sha256"] = sha256_hex(self.body).into();
        all
    }

    /// What the sender signs.
    fn signed_content(&self) -> String {
        let alternatives = self.scheme.describe();
        distinct(alternatives.iter().map(|one| one.signed.as_str()).collect())
    }

    fn time(&self) -> String {
        humantime::format_rfc3339_seconds(self.now).to_string()
    }
}

/// Joins the texts of alternatives, equal neighbours once.
fn distinct(mut texts: Vec<&str>) -> String {
    texts.dedup();
    texts.join("; or ")
}
