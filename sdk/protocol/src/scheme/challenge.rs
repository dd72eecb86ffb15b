//! Challenges: requests by which a sender checks that the hook belongs to the receiver. They are answered and never stored.

use std::time::SystemTime;

use super::{Check, Rejection, Request, Scheme, Verified};
use crate::{Secret, api::OUTBOUND_TOKEN, json, sign_watson_work};

/// The outcome of a request that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reception {
    /// An event to store.
    Event(Verified),
    /// A challenge: the answer to it.
    Answer(Answer),
    /// A handshake that sets the secret of the source. It may be answered only if the owner of the source expects it.
    Secret {
        /// The new secret.
        secret: Secret,
        /// The answer, once the secret is stored.
        answer: Answer,
    },
}

/// The answer to a challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The content type: `application/json; charset=utf-8` or `text/plain; charset=utf-8`.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

const JSON: &str = "application/json; charset=utf-8";

impl Scheme {
    /// Verifies a request, and answers it if it is a challenge.
    pub(crate) fn receive(
        &self,
        secrets: &[Secret],
        _challenge_secret: Option<&Secret>,
        request: &Request<'_>,
        now: SystemTime,
    ) -> Result<Reception, Rejection> {
        let verified = self.verify(secrets, request, now)?;
        let answer = match self.name() {
            "watsonwork" => watson_work(&secrets[verified.secret - 1], request.body)?,
            _ => None,
        };
        Ok(answer.map_or(Reception::Event(verified), Reception::Answer))
    }
}

/// Watson Work: `{"type":"verification","challenge":C}`. The answer is signed with the secret that signed the request.
fn watson_work(secret: &Secret, body: &[u8]) -> Result<Option<Answer>, Rejection> {
    let Ok(text) = std::str::from_utf8(body) else { return Ok(None) };
    let Ok([kind, challenge]) = json::members(text, ["type", "challenge"]) else { return Ok(None) };
    if kind.and_then(json::string).as_deref() != Some("verification") {
        return Ok(None);
    }
    let challenge = challenge
        .filter(|raw| json::string(raw).is_some())
        .ok_or_else(|| Rejection::new(Check::Form, "the challenge is not a string"))?;
    let body = format!(r#"{{"response":{}}}"#, challenge.get());
    let signature = sign_watson_work(secret, body.as_bytes());
    Ok(Some(Answer { status: 200, content_type: JSON, headers: vec![(OUTBOUND_TOKEN, signature)], body }))
}
