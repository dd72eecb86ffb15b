//! The deliveries of `fixtures/senders/`, one file for each preset.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use wwproxy_protocol::{
    Secret,
    scheme::{Rejection, Request, Scheme, Verified},
};

/// A delivery, valid or not.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) secret: String,
    pub(crate) url: String,
    pub(crate) method: String,
    #[serde(deserialize_with = "bytes_of_values")]
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    #[serde(rename = "body_base64", deserialize_with = "base64")]
    pub(crate) body: Vec<u8>,
    pub(crate) expect: String,
    pub(crate) now: Option<u64>,
    pub(crate) tolerance: Option<u64>,
    #[serde(default)]
    pub(crate) gives: Gives,
}

/// What the sender's id and event sources yield.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(crate) struct Gives {
    pub(crate) id: Option<String>,
    pub(crate) event: Option<String>,
}

fn base64<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn bytes_of_values<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<(String, Vec<u8>)>, D::Error> {
    let headers: Vec<(String, String)> = Vec::deserialize(deserializer)?;
    Ok(headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect())
}

impl Vector {
    pub(crate) fn is_valid(&self) -> bool {
        self.expect == "valid"
    }

    pub(crate) fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.now.unwrap_or(1_764_363_600))
    }

    pub(crate) fn verify(&self, scheme: &Scheme) -> Result<Verified, Rejection> {
        self.verify_with(scheme, &[Secret::new(self.secret.as_str())])
    }

    pub(crate) fn verify_with(&self, scheme: &Scheme, secrets: &[Secret]) -> Result<Verified, Rejection> {
        self.request(|request| scheme.verify(secrets, request, self.now()))
    }

    pub(crate) fn verify_at(&self, scheme: &Scheme, now: SystemTime) -> Result<Verified, Rejection> {
        self.request(|request| scheme.verify(&[Secret::new(self.secret.as_str())], request, now))
    }

    fn request<T>(&self, call: impl FnOnce(&Request<'_>) -> T) -> T {
        let headers: Vec<_> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        call(&Request { url: Some(&self.url), ..Request::new(&self.method, &headers, &self.body) })
    }

    pub(crate) fn header(&mut self, name: &str) -> Option<&mut Vec<u8>> {
        self.headers.iter_mut().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Reads the vectors of a preset.
pub(crate) fn vectors(preset: &str) -> Vec<Vector> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/senders").join(format!("{preset}.json"));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns a valid vector by the beginning of its name.
pub(crate) fn valid(preset: &str, name: &str) -> Vector {
    let found = vectors(preset).into_iter().find(|vector| vector.is_valid() && vector.name.starts_with(name));
    found.unwrap_or_else(|| panic!("{preset} has no valid vector {name}"))
}

/// The rows of the embedded table as JSON, for tests that change a template.
pub(crate) fn rows() -> Vec<serde_json::Value> {
    serde_json::from_str(include_str!("../../src/scheme/presets.json")).unwrap()
}
