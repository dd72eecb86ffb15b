//! An example of a signed request.

use std::{
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use serde_json::{Value, json};
use wwproxy_sdk::{
    Secret, sanitize,
    scheme::{Scheme, Unsigned},
};

/// A signed request with an invented secret.
pub(super) struct Example {
    /// The secret to register.
    pub(super) registered: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Example {
    /// The time of the example, in Unix seconds: it is the same in each call.
    const SECONDS: u64 = 1_764_363_600;
    /// The same in RFC 3339.
    pub(super) const TIME: &'static str = "2025-11-28T21:00:00Z";
    const URL: &'static str = "https://proxy.example.com/hook/my-app";

    /// Signs a sample. `None` if the scheme needs a key that cannot be invented.
    pub(super) fn new(scheme: &Scheme) -> Option<Self> {
        let time = UNIX_EPOCH + Duration::from_secs(Self::SECONDS);
        let (secret, registered) = Self::keys(scheme)?;
        let event_type = scheme.sample_types().first().copied();
        let sample = event_type.and_then(|event_type| scheme.sample(event_type, time));
        let (content_type, body) = sample
            .map_or(("application/json", r#"{"example":true}"#.to_owned()), |sample| {
                (sample.content_type, sample.body)
            });
        let unsigned = Unsigned {
            method: "POST",
            url: Some(Self::URL),
            headers: &[("Content-Type", content_type)],
            body: body.as_bytes(),
            delivery_id: "0d9c7e0e-6a3f-4c39-8f56-1f2a5bd0a001",
            event_type,
            time,
        };
        let signed = scheme.sign(&secret, &unsigned).ok()?;
        let mut headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        headers.extend(signed.headers);
        let body = signed.body.map_or(body, |body| String::from_utf8_lossy(&body).into_owned());
        Some(Self { registered, headers, body })
    }

    /// The secret that signs and the one to register, in the form of the scheme.
    fn keys(scheme: &Scheme) -> Option<(Secret, String)> {
        let seed = Secret::new("11".repeat(32));
        if let Ok(public) = scheme.public_key(&seed) {
            return Some((seed, public));
        }
        let forms =
            ["example-secret".to_owned(), "whsec_".to_owned() + &"A".repeat(43) + "=", "11".repeat(32)];
        let form = forms.into_iter().find(|form| {
            let starts_so = form.starts_with("whsec_");
            let needs_prefix = scheme.describe().iter().any(|one| one.key.contains("whsec_"));
            starts_so == needs_prefix && scheme.check_secret(&Secret::new(form.as_str())).is_ok()
        })?;
        Some((Secret::new(form.as_str()), form))
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("  POST {}\n", Self::URL);
        for (name, value) in &self.headers {
            let _ = writeln!(text, "  {name}: {}", sanitize(value));
        }
        let _ = write!(text, "\n  {}\n", sanitize(&self.body));
        text
    }

    pub(super) fn json(&self) -> Value {
        json!({"secret": self.registered, "url": Self::URL, "time": Self::SECONDS, "headers": self.headers, "body": self.body})
    }
}
