//! Makes challenges as senders do, from the same table: for tests of apps, and for the command line.

use std::fmt;

use serde_json::{Map, Value};

use super::table::{Body, Challenge, Condition, Member, Part, Pattern, Place};
use crate::{
    Secret,
    redact::names,
    scheme::{Scheme, source::Source},
};

/// A challenge as its sender would send it, without a signature.
#[derive(Clone, PartialEq, Eq)]
pub struct ChallengeRequest {
    /// The HTTP method.
    pub method: String,
    /// The parameters of the query, not encoded.
    pub query: Vec<(String, String)>,
    /// The headers, without a signature.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// Whether the sender signs it.
    pub signed: bool,
}

impl fmt::Debug for ChallengeRequest {
    /// Leaves out the values of parameters and headers, and the body: one of them is the challenge secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChallengeRequest")
            .field("method", &self.method)
            .field("query", &names(&self.query))
            .field("headers", &names(&self.headers))
            .field("body_bytes", &self.body.len())
            .field("signed", &self.signed)
            .finish()
    }
}

impl Scheme {
    /// Whether the sender sends a challenge, which the hook answers.
    #[must_use]
    pub fn has_challenge(&self) -> bool {
        self.name() == "watsonwork" || !self.challenges().is_empty()
    }

    /// The challenge of this sender, with `token` wherever it puts a random text. `None` if it sends none, or one that sets the
    /// secret.
    #[must_use]
    pub fn challenge_request(
        &self,
        token: &str,
        challenge_secret: Option<&Secret>,
    ) -> Option<ChallengeRequest> {
        if self.name() == "watsonwork" {
            let body = serde_json::json!({"type": "verification", "challenge": token});
            return Some(Draft::new("POST", body).finish(true));
        }
        let challenge = self.challenges().iter().find(|challenge| challenge.sets.is_none())?;
        let mut draft = Draft::new(&challenge.method, Value::Object(Map::new()));
        for place in challenge.echoed() {
            draft.set(place, token);
        }
        for (place, condition) in &challenge.when {
            match condition {
                Condition::Present => draft.set(place, token),
                // A number in JSON: Discord's types.
                Condition::Equals(text) => {
                    draft.set_json(
                        place,
                        text,
                        text.parse::<u64>().map_or_else(|_| text.as_str().into(), Value::from),
                    );
                }
                Condition::Absent => {}
            }
        }
        if let Some(place) = &challenge.token {
            draft.set(place, challenge_secret.map(Secret::expose).unwrap_or_default());
        }
        Some(draft.finish(challenge.signed))
    }
}

impl Challenge {
    /// The places whose values the answer repeats or signs.
    fn echoed(&self) -> impl Iterator<Item = &Place> {
        let members: &[(String, Member)] = if let Body::Json(members) = &self.body { members } else { &[] };
        let in_members = members.iter().filter_map(|(_, member)| match member {
            Member::Text(pattern) => Some(pattern),
            Member::Value(_) => None,
        });
        let in_text = if let Body::Text(pattern) = &self.body { Some(pattern) } else { None };
        let patterns = self.headers.iter().map(|(_, pattern)| pattern).chain(in_text).chain(in_members);
        patterns.flat_map(Pattern::places)
    }
}

impl Pattern {
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.0.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Echo(place) | Part::HmacHex(place) | Part::HmacBase64(place) => Some(place),
        })
    }
}

/// A challenge whose values are set one by one.
struct Draft {
    method: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    json: Value,
}

impl Draft {
    fn new(method: &str, json: Value) -> Self {
        Self { method: method.to_owned(), query: Vec::new(), headers: Vec::new(), json }
    }

    fn set(&mut self, place: &Place, text: &str) {
        self.set_json(place, text, text.into());
    }

    /// Sets a place to a text, in a JSON body to a value.
    fn set_json(&mut self, place: &Place, text: &str, json: Value) {
        let replace = |list: &mut Vec<(String, String)>, name: &str| {
            list.retain(|(other, _)| other != name);
            list.push((name.to_owned(), text.to_owned()));
        };
        match place {
            // The only condition on a whole body is that it is empty.
            Place::Body => {}
            Place::Query(name) => replace(&mut self.query, name),
            Place::Source(Source::Header(name)) => replace(&mut self.headers, name),
            Place::Source(Source::Json(path)) => {
                let mut value = &mut self.json;
                for name in path.names() {
                    value = &mut value[name];
                }
                *value = json;
            }
        }
    }

    fn finish(mut self, signed: bool) -> ChallengeRequest {
        let is_empty = self.json.as_object().is_none_or(Map::is_empty);
        let body = if is_empty { String::new() } else { self.json.to_string() };
        if self.method == "POST" {
            let kind = if is_empty { "text/plain; charset=utf-8" } else { "application/json" };
            self.headers.insert(0, ("Content-Type".to_owned(), kind.to_owned()));
        }
        ChallengeRequest { method: self.method, query: self.query, headers: self.headers, body, signed }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::scheme::{Reception, Request, Unsigned, presets};

    /// Encodes a query whose values are plain.
    fn encoded(query: &[(String, String)]) -> String {
        let pairs: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("&")
    }

    #[test]
    fn each_challenge_is_answered() {
        let mut names = Vec::new();
        for preset in presets() {
            let scheme = &preset.scheme;
            let verify_token = scheme.has_challenge_secret().then(|| Secret::new("verify-me"));
            let Some(challenge) = scheme.challenge_request("3f9a", verify_token.as_ref()) else { continue };
            names.push(scheme.name());
            let private = scheme.generate_secret().unwrap_or_else(|_| Secret::new("11".repeat(32)));
            let registered = scheme.public_key(&private).map_or_else(|_| private.clone(), Secret::new);
            let mut headers = challenge.headers.clone();
            if challenge.signed {
                let given: Vec<_> =
                    headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let unsigned = Unsigned {
                    method: &challenge.method,
                    url: None,
                    headers: &given,
                    body: challenge.body.as_bytes(),
                    delivery_id: "7",
                    event_type: None,
                    time: SystemTime::now(),
                };
                headers.extend(scheme.sign(&private, &unsigned).unwrap().headers);
            }
            let headers: Vec<_> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
            let query = encoded(&challenge.query);
            let request = Request {
                query: Some(&query),
                ..Request::new(&challenge.method, &headers, challenge.body.as_bytes())
            };
            let answer =
                scheme.receive(&[registered], verify_token.as_ref(), &request, SystemTime::now()).unwrap();
            let Reception::Answer(answer) = answer else { panic!("{}: {answer:?}", scheme.name()) };
            let repeats = !["discord", "intercom", "trello", "x"].contains(&scheme.name());
            assert_eq!(answer.body.contains("3f9a"), repeats, "{}: {}", scheme.name(), answer.body);
        }
        let known = [
            "discord",
            "dropbox",
            "intercom",
            "meta",
            "msgraph",
            "okta",
            "slack",
            "trello",
            "watsonwork",
            "x",
            "zoom",
        ];
        assert_eq!(names, known);
    }
}
