//! Sample requests of senders, with invented people and things.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Scheme;

/// The samples: data, so that each can be compared with the sender's documentation. Placeholders in `{{…}}` are filled by
/// [`Fill`].
const TABLE: &str = include_str!("samples.json");

/// A request as a sender would send it, without its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The content type of the body.
    pub content_type: &'static str,
    /// The body, with new ids and the current time.
    pub body: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sender {
    schemes: Vec<String>,
    #[serde(borrow)]
    samples: Vec<Row<'static>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    /// A JSON body.
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    /// A form body.
    form: Option<&'a str>,
}

static SAMPLES: LazyLock<Vec<Sender>> =
    LazyLock::new(|| serde_json::from_str(TABLE).expect("samples.json is parsed in the tests"));

impl Scheme {
    fn samples(&self) -> &'static [Row<'static>] {
        let known = SAMPLES.iter().find(|sender| sender.schemes.iter().any(|name| name == self.name()));
        known.map_or(&[], |sender| &sender.samples)
    }

    /// The types of which there are samples, the most common one first. Empty if this sender has none.
    #[must_use]
    pub fn sample_types(&self) -> Vec<&'static str> {
        self.samples().iter().map(|row| row.event_type).collect()
    }

    /// A sample of this type, with new ids. It is not signed: see [`sign`](Self::sign).
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use wwproxy_protocol::scheme::Scheme;
    ///
    /// let sample = Scheme::preset("github").unwrap().sample("issues.opened", SystemTime::now()).unwrap();
    /// assert!(sample.body.contains("\"action\": \"opened\""));
    /// ```
    #[must_use]
    pub fn sample(&self, event_type: &str, now: SystemTime) -> Option<Sample> {
        let row = self.samples().iter().find(|row| row.event_type == event_type)?;
        let (content_type, text) = match (row.body, row.form) {
            (Some(body), _) => ("application/json", body.get()),
            (None, form) => ("application/x-www-form-urlencoded", form.unwrap_or_default()),
        };
        Some(Sample { content_type, body: Fill::new(now).fill(text) })
    }
}

/// Fills the placeholders of a sample:
///
/// - `unix`, `unix_ms`, `rfc3339`, `rfc3339_ms`: the time
/// - `hex:N`, `alnum:N`, `upper:N`, `number:N`: N random hex digits, letters and digits, capitals and digits, decimal digits
/// - `uuid`: a random UUID
///
/// A placeholder with a `#label` has the same value wherever it is repeated. A JSON string that is one placeholder of a number
/// becomes a JSON number.
struct Fill {
    now: SystemTime,
    labelled: HashMap<String, String>,
}

impl Fill {
    /// Later times than the year 2286 have no timestamp of 10 digits.
    fn new(now: SystemTime) -> Self {
        let now = now.clamp(UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(9_999_999_999));
        Self { now, labelled: HashMap::new() }
    }

    fn fill(&mut self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (placeholder, after) = after.split_once("}}").unwrap_or((after, ""));
            let value = self.value(placeholder);
            let is_number = placeholder.starts_with("unix") || placeholder.starts_with("number:");
            let unquoted = before.strip_suffix('"').zip(after.strip_prefix('"')).filter(|_| is_number);
            let (before, after) = unquoted.unwrap_or((before, after));
            filled.push_str(before);
            filled.push_str(&value);
            rest = after;
        }
        filled.push_str(rest);
        filled
    }

    fn value(&mut self, placeholder: &str) -> String {
        if let Some(known) = self.labelled.get(placeholder) {
            return known.clone();
        }
        let kind = placeholder.split('#').next().unwrap_or_default();
        let (kind, length) = kind.split_once(':').unwrap_or((kind, "0"));
        let random = |alphabet| random(alphabet, length.parse().unwrap_or_default());
        let since = self.now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let value = match kind {
            "unix" => since.as_secs().to_string(),
            "unix_ms" => since.as_millis().to_string(),
            "rfc3339" => humantime::format_rfc3339_seconds(self.now).to_string(),
            "rfc3339_ms" => humantime::format_rfc3339_millis(self.now).to_string(),
            "hex" => random("0123456789abcdef"),
            "alnum" => random("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"),
            "upper" => random("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
            // No zero: a JSON number does not begin with one.
            "number" => random("123456789"),
            _ => new_delivery_id(),
        };
        if placeholder.contains('#') {
            self.labelled.insert(placeholder.to_owned(), value.clone());
        }
        value
    }
}

/// Random characters. They make ids unique, and are no secrets.
fn random(alphabet: &str, length: usize) -> String {
    let (state, alphabet) = (RandomState::new(), alphabet.as_bytes());
    let byte = |at: usize| alphabet[usize::try_from(state.hash_one(at) % alphabet.len() as u64).unwrap_or(0)];
    (0..length).map(|at| char::from(byte(at))).collect()
}

/// Makes a delivery id: a random UUID (version 4), as most senders use.
#[must_use]
pub fn new_delivery_id() -> String {
    let hex = random("0123456789abcdef", 30);
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[12..15], &hex[15..18], &hex[18..30])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Secret,
        scheme::{Request, Unsigned, Verified},
    };

    /// The key that signs and the one to register.
    fn keys(scheme: &Scheme) -> (Secret, Secret) {
        if let Ok(secret) = scheme.generate_secret() {
            return (secret.clone(), secret);
        }
        let private = Secret::new("11".repeat(32));
        let public = scheme.public_key(&private).unwrap();
        (private, Secret::new(public))
    }

    /// Signs a sample, and returns what the receiver finds in it.
    fn sent(scheme: &Scheme, event_type: &str) -> Verified {
        let now = SystemTime::now();
        let sample = scheme.sample(event_type, now).unwrap();
        assert!(!sample.body.contains("{{") && sample.body.len() < 2000, "{}", sample.body);
        let (private, registered) = keys(scheme);
        let unsigned = Unsigned {
            method: "POST",
            url: Some("https://hooks.example.test/x"),
            headers: &[("Content-Type", sample.content_type)],
            body: sample.body.as_bytes(),
            delivery_id: &new_delivery_id(),
            event_type: Some(event_type),
            time: now,
        };
        let signed = scheme.sign(&private, &unsigned).unwrap();
        let mut headers = vec![("Content-Type", sample.content_type.as_bytes())];
        headers.extend(signed.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
        let body = signed.body.as_deref().unwrap_or(unsigned.body);
        let request = Request { url: unsigned.url, ..Request::new("POST", &headers, body) };
        scheme.verify(&[registered], &request, now).unwrap()
    }

    #[test]
    fn each_sample_is_accepted_with_its_type_and_a_new_id() {
        for name in SAMPLES.iter().flat_map(|sender| &sender.schemes) {
            let scheme = Scheme::preset(name).unwrap();
            for event_type in scheme.sample_types() {
                let (first, second) = (sent(&scheme, event_type), sent(&scheme, event_type));
                assert!(first.event_type.is_none_or(|found| found == event_type), "{name} {event_type}");
                assert!(first.delivery_id.is_none() || first.delivery_id != second.delivery_id, "{name}");
            }
        }
    }

    #[test]
    fn a_placeholder_in_quotes_becomes_a_number_and_a_label_repeats_its_value() {
        let mut fill = Fill::new(UNIX_EPOCH + Duration::from_millis(1_764_363_600_500));
        assert_eq!(
            fill.fill(r#"{"a":"{{unix}}","b":"{{unix}}.1"}"#),
            r#"{"a":1764363600,"b":"1764363600.1"}"#
        );
        assert_eq!(fill.fill("{{rfc3339_ms}} {{unix_ms}}"), "2025-11-28T21:00:00.500Z 1764363600500");
        let twice = fill.fill("{{hex:40#a}}{{hex:40#a}}");
        assert_eq!(twice[..40], twice[40..]);
        assert_ne!(fill.fill("{{hex:40}}"), fill.fill("{{hex:40}}"));
        assert_eq!(fill.fill("{{uuid}}").len(), 36);
        let far = Duration::from_secs(1 << 40);
        assert_eq!(Fill::new(UNIX_EPOCH + far).fill("{{rfc3339}}"), "2286-11-20T17:46:39Z");
        assert_eq!(Fill::new(UNIX_EPOCH - far).fill("{{rfc3339}}"), "1970-01-01T00:00:00Z");
    }
}
