//! How a registration is stored: JSON of its epoch and its sources, with the settings of each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;
use wwproxy_protocol::{Secret, SourceName, SourceSettings};

use super::record::InvalidRecord;
use crate::store::{Registration, stored_source};

#[derive(Serialize, Deserialize)]
struct StoredRegistration {
    #[serde(default)]
    sources: BTreeMap<SourceName, Box<RawValue>>,
    /// The webhook secrets of a registration that was written before there were sources.
    #[serde(default, skip_serializing)]
    secrets: Vec<String>,
    /// Its name in the file, which earlier stores have, is another one.
    #[serde(rename = "life")]
    epoch: String,
}

/// Encodes a registration and the epoch that it began (see [`crate::store::dedupe`]).
pub(super) fn encode(registration: &Registration, epoch: u128) -> Vec<u8> {
    let sources =
        registration.sources.iter().map(|(name, source)| (name.clone(), raw(&stored_source::encode(source))));
    let epoch = Uuid::from_u128(epoch).to_string();
    let stored = StoredRegistration { sources: sources.collect(), secrets: Vec::new(), epoch };
    serde_json::to_vec(&stored).expect("texts have a JSON form")
}

pub(super) fn decode(record: &[u8]) -> Result<(Registration, u128), InvalidRecord> {
    let stored: StoredRegistration = serde_json::from_slice(record).map_err(|_| InvalidRecord::Damaged)?;
    let epoch: Uuid = stored.epoch.parse().map_err(|_| InvalidRecord::Damaged)?;
    let mut sources = stored.sources;
    if !stored.secrets.is_empty() {
        let secrets = stored.secrets.into_iter().map(Secret::new).collect();
        let settings = SourceSettings { secrets, ..SourceSettings::default() };
        sources.insert(SourceName::default(), raw(&settings.expose()));
    }
    let sources =
        sources.into_iter().map(|(name, settings)| (name, stored_source::decode(settings.get()))).collect();
    Ok((Registration { sources }, epoch.as_u128()))
}

fn raw(settings: &str) -> Box<RawValue> {
    serde_json::from_str(settings).expect("the settings are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_comes_back_as_it_was() {
        let registration = Registration::watson_work(Secret::new("s\"1"));
        let (decoded, epoch) = decode(&encode(&registration, 7)).unwrap();
        assert_eq!((decoded, epoch), (registration, 7));
    }

    #[test]
    fn a_registration_without_sources_is_one_of_watson_work_whatever_its_secret_is() {
        for secret in ["s\\\"1", "whpk_1", "whsec_", " "] {
            let old = format!(
                r#"{{"scheme":"watsonwork","secrets":["{secret}"],"life":"00000000-0000-0000-0000-000000000007"}}"#
            );
            let secret: String = serde_json::from_str(&format!("\"{secret}\"")).unwrap();
            let expected = (Registration::watson_work(Secret::new(secret)), 7);
            assert_eq!(decode(old.as_bytes()).unwrap(), expected);
            assert_eq!(decode(&encode(&expected.0, 7)).unwrap(), expected);
        }
    }

    #[test]
    fn an_invalid_source_is_kept_as_it_is_stored() {
        let stored = br#"{"sources":{"bad":7,"new":{"scheme":"semaphore","secrets":["hush"]},"repo":{"scheme":"github","secrets":["s"]}},"life":"00000000-0000-0000-0000-000000000007"}"#;
        let (registration, epoch) = decode(stored).unwrap();
        assert!(registration.source(&"repo".parse().unwrap()).is_some());
        let new = registration.sources[&"new".parse::<SourceName>().unwrap()].as_ref().unwrap_err();
        let shown = format!("{new} {new:?}");
        assert!(new.to_string().contains("semaphore") && !shown.contains("hush"), "{shown}");
        assert_eq!(encode(&registration, epoch), stored);
    }
}
