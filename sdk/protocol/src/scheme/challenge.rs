//! Challenges: requests by which a sender checks that the hook belongs to the receiver. They are answered and never stored.
//!
//! [`table`] has them as data. Only Watson Work's needs code, as its answer has a signature of its own.

mod request;
mod table;

use std::{borrow::Cow, fmt, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

pub use self::request::ChallengeRequest;
use self::table::{Body, Challenge, Condition, Member, Part, Pattern, Place, challenges};
use super::{Check, Rejection, Request, Scheme, Verified, lookup::LookupError, source::query};
use crate::{
    Secret,
    api::OUTBOUND_TOKEN,
    json,
    signature::{hex, hmac_sha256, sign_watson_work},
};

/// The largest body of a challenge, in bytes. A larger body is an event.
const MAX_CHALLENGE_BYTES: usize = 64 << 10;
/// The longest value that an answer repeats, in bytes.
const MAX_ECHO_BYTES: usize = 4096;

const JSON: &str = "application/json; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// The outcome of a request that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reception {
    /// An event to store.
    Event(Verified),
    /// A challenge: the answer to it. It is not stored.
    Answer(Answer),
    /// A handshake that sets the secret of the source. It is not signed: it may be answered only while the owner of the
    /// source expects it.
    Secret {
        /// The secret of the webhooks to come.
        secret: Secret,
        /// The answer, once the secret is stored.
        answer: Answer,
    },
}

/// The answer to a challenge.
///
/// The text that it repeats has at most 4 KiB and no control characters. It is chosen by the peer, so a server should add
/// `X-Content-Type-Options: nosniff`.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status, 200 or 204.
    pub status: u16,
    /// The content type: `application/json; charset=utf-8` or `text/plain; charset=utf-8`.
    pub content_type: &'static str,
    /// Further headers. Their values are printable ASCII.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

impl fmt::Debug for Answer {
    /// Leaves out the values of headers and the body: a handshake repeats the secret there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Scheme {
    /// The HTTP methods of the hook: `POST`, and those of the sender's challenge. `POST` alone makes events.
    #[must_use]
    pub fn methods(&self) -> &'static [&'static str] {
        let uses = |method| self.challenges().iter().any(|challenge| challenge.method == method);
        match (uses("GET"), uses("HEAD")) {
            (false, false) => &["POST"],
            (true, false) => &["POST", "GET"],
            (false, true) => &["POST", "HEAD"],
            (true, true) => &["POST", "GET", "HEAD"],
        }
    }

    /// Whether the sender's challenge has a secret of its own, such as Meta's verify token.
    #[must_use]
    pub fn has_challenge_secret(&self) -> bool {
        self.challenges().iter().any(|challenge| challenge.token.is_some())
    }

    /// Whether the secret is set by the sender's handshake, see [`Reception::Secret`].
    #[must_use]
    pub fn learns_secret(&self) -> bool {
        self.challenges().iter().any(|challenge| challenge.sets.is_some())
    }

    fn challenges(&self) -> &'static [Challenge] {
        challenges(self.name())
    }

    /// Verifies a request, and answers it if it is a challenge. The secrets are in order, the newest is the last one: an answer
    /// is computed with the secret that signed the request, or with the newest if the sender does not sign its challenge.
    pub(crate) fn receive(
        &self,
        secrets: &[Secret],
        challenge_secret: Option<&Secret>,
        request: &Request<'_>,
        now: SystemTime,
    ) -> Result<Reception, Rejection> {
        let is_post = request.method == "POST";
        let of_method = |signed| {
            let challenges = self.challenges().iter();
            challenges.filter(move |other| other.method == request.method && other.signed == signed)
        };
        for challenge in of_method(false) {
            if challenge.matches(request)? {
                return self.answer_unsigned(challenge, secrets, challenge_secret, request, now);
            }
        }
        if !is_post && of_method(true).next().is_none() {
            return Err(self.no_challenge(request));
        }
        let verified = self.verify(secrets, request, now)?;
        let secret = verified.secret.checked_sub(1).and_then(|at| secrets.get(at));
        for challenge in of_method(true) {
            if challenge.matches(request)? {
                return challenge.answer(secret, request).map(Reception::Answer);
            }
        }
        match secret {
            _ if !is_post => Err(self.no_challenge(request)),
            Some(secret) if self.name() == "watsonwork" => {
                let answer = watson_work(secret, request.body)?;
                Ok(answer.map_or(Reception::Event(verified), Reception::Answer))
            }
            _ => Ok(Reception::Event(verified)),
        }
    }

    fn no_challenge(&self, request: &Request<'_>) -> Rejection {
        let detail = format!("this {} request is not a challenge of {}", request.method, self.name());
        Rejection::new(Check::Challenge, detail)
    }

    fn answer_unsigned(
        &self,
        challenge: &'static Challenge,
        secrets: &[Secret],
        challenge_secret: Option<&Secret>,
        request: &Request<'_>,
        now: SystemTime,
    ) -> Result<Reception, Rejection> {
        let reject = |detail: &str| Rejection::new(Check::Challenge, detail);
        if let Some(place) = &challenge.token {
            let expected = challenge_secret
                .ok_or_else(|| reject("the source has no \"challengeSecret\": register it with one"))?;
            if Secret::new(challenge.text(place, request)?) != *expected {
                return Err(reject("the challenge does not have the \"challengeSecret\" of the source"));
            }
        }
        // The sender signs nothing that shows which secret it uses, so the answer needs the newest.
        let answer = challenge.answer(secrets.last(), request)?;
        let Some(place) = &challenge.sets else { return Ok(Reception::Answer(answer)) };
        let secret = Secret::new(challenge.text(place, request)?);
        self.check_secret(&secret)
            .map_err(|reason| reject(&format!("the new secret is invalid: {reason}")))?;
        if self.has_signature(request) {
            self.verify(std::slice::from_ref(&secret), request, now)?;
        }
        Ok(Reception::Secret { secret, answer })
    }
}

impl Challenge {
    /// Whether the request is this challenge. A header or parameter that is there twice is refused.
    fn matches(&self, request: &Request<'_>) -> Result<bool, Rejection> {
        if request.body.len() > MAX_CHALLENGE_BYTES {
            return Ok(false);
        }
        for (place, condition) in &self.when {
            let holds = match (place.find(request), condition) {
                (Ok(Some(_)), Condition::Present) | (Ok(None), Condition::Absent) => true,
                (Ok(Some(value)), Condition::Equals(text)) => *value == *text.as_bytes(),
                // A body that is not JSON is no challenge.
                (Err(LookupError::Json(_)), _) => false,
                (Err(error), Condition::Present) => {
                    return Err(self.reject(&error.to_string()));
                }
                _ => false,
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn answer(&'static self, secret: Option<&Secret>, request: &Request<'_>) -> Result<Answer, Rejection> {
        let fill = |pattern: &Pattern| self.fill(pattern, secret, request);
        let headers = self.headers.iter().map(|(name, pattern)| {
            let value = fill(pattern)?;
            let printable = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            if printable {
                Ok((name.as_str(), value))
            } else {
                Err(self.reject(&format!("the value of {name} is not printable ASCII")))
            }
        });
        let headers = headers.collect::<Result<_, _>>()?;
        let body = match &self.body {
            Body::Text(pattern) => fill(pattern)?,
            Body::Json(members) => {
                let member = |(name, member): &(String, Member)| {
                    let value = match member {
                        Member::Text(pattern) => fill(pattern)?.into(),
                        Member::Value(value) => value.clone(),
                    };
                    Ok((name.clone(), value))
                };
                json::encode(&members.iter().map(member).collect::<Result<Map<String, Value>, _>>()?)
            }
        };
        Ok(Answer { status: self.status, content_type: self.content_type, headers, body })
    }

    fn fill(
        &self,
        pattern: &Pattern,
        secret: Option<&Secret>,
        request: &Request<'_>,
    ) -> Result<String, Rejection> {
        let mut filled = String::new();
        for part in &pattern.0 {
            match part {
                Part::Literal(text) => filled.push_str(text),
                Part::Echo(place) => filled.push_str(&self.text(place, request)?),
                Part::HmacHex(place) => filled.push_str(&hex(&self.hmac(place, secret, request)?)),
                Part::HmacBase64(place) => {
                    filled.push_str(&STANDARD.encode(self.hmac(place, secret, request)?));
                }
            }
        }
        Ok(filled)
    }

    /// Computes the HMAC of a value of the request.
    ///
    /// Anyone can send a challenge that is not signed, and would get the signature of a webhook if the value could be a
    /// body. So it must be a plain token, and such a scheme accepts JSON bodies only.
    fn hmac(
        &self,
        place: &Place,
        secret: Option<&Secret>,
        request: &Request<'_>,
    ) -> Result<[u8; 32], Rejection> {
        let secret = secret.ok_or_else(|| Rejection::new(Check::Secret, "the source has no secret"))?;
        let text = self.text(place, request)?;
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte));
        if self.signed || plain {
            Ok(hmac_sha256(secret, text.as_bytes()))
        } else {
            let reason = format!("{place} has other characters than letters, digits and - . _ ~ + / =");
            Err(self.reject(&reason))
        }
    }

    /// Returns a value of the request that can be repeated in an answer.
    fn text(&self, place: &Place, request: &Request<'_>) -> Result<String, Rejection> {
        let reject = |reason: &str| self.reject(&format!("{place} {reason}"));
        let value = place.find(request).map_err(|error| self.reject(&error.to_string()))?;
        let value = value.ok_or_else(|| reject("is missing"))?;
        let text = std::str::from_utf8(&value).map_err(|_| reject("is not UTF-8"))?;
        match text.len() {
            0 => Err(reject("is empty")),
            1..=MAX_ECHO_BYTES if text.contains(char::is_control) => Err(reject("has control characters")),
            1..=MAX_ECHO_BYTES => Ok(text.to_owned()),
            _ => Err(reject("is longer than 4096 bytes")),
        }
    }

    fn reject(&self, reason: &str) -> Rejection {
        let check = if self.signed { Check::Form } else { Check::Challenge };
        Rejection::new(check, format!("the challenge is invalid: {reason}"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body => f.write_str("the body"),
            Self::Query(name) => write!(f, "query parameter {name}"),
            Self::Source(source) => source.fmt(f),
        }
    }
}

impl Place {
    fn find<'a>(&self, request: &Request<'a>) -> Result<Option<Cow<'a, [u8]>>, LookupError> {
        match self {
            Self::Body => Ok(Some(request.body.into())),
            Self::Query(name) => Ok(query(request.query.unwrap_or_default(), name)?.map(Cow::Owned)),
            Self::Source(source) => source.find(request),
        }
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
        .ok_or_else(|| Rejection::new(Check::Form, "the challenge is not a text"))?;
    let body = format!(r#"{{"response":{}}}"#, challenge.get());
    let signature = sign_watson_work(secret, body.as_bytes());
    Ok(Some(Answer { status: 200, content_type: JSON, headers: vec![(OUTBOUND_TOKEN, signature)], body }))
}
