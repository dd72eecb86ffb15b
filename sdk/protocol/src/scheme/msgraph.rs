//! Microsoft Graph: every notification has the `clientState` of its subscription, which is the secret.
//!
//! After Microsoft Learn "Receive change notifications through webhooks". The body is not covered.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};
use subtle::ConstantTimeEq as _;

use super::{
    Check, Covers, Description, Rejection, Request, SignError, Signed, Unsigned, Verified,
    json_path::JsonPath, sign::replaced, verify::text_label,
};
use crate::Secret;

/// The longest `clientState`, in characters.
const MAX_CLIENT_STATE: usize = 128;
/// The most notifications in a request.
const MAX_ITEMS: usize = 1000;

/// The body of a request. A repeated name is an error.
#[derive(Deserialize)]
struct Body {
    value: Items,
}

struct Items(Vec<Item>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    client_state: Option<String>,
    change_type: Option<String>,
    resource: Option<String>,
    /// In place of a change: the subscription needs attention.
    lifecycle_event: Option<String>,
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Self(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Items {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX_ITEMS} notifications")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Self, A::Error> {
        while let Some(item) = items.next_element()? {
            if self.0.len() == MAX_ITEMS {
                return Err(A::Error::custom("too many notifications"));
            }
            self.0.push(item);
        }
        Ok(self)
    }
}

impl Item {
    /// The change and what it is about, as in `created.me/messages/1`.
    fn event_type(&self) -> Option<String> {
        let change = self.change_type.as_ref().or(self.lifecycle_event.as_ref())?;
        let resource = self.resource.iter().filter(|_| self.change_type.is_some());
        let text = resource.fold(change.clone(), |text, resource| format!("{text}.{resource}"));
        text_label(text.into_bytes())
    }
}

/// Checks that a secret can be a `clientState`.
pub(super) fn check_secret(secret: &Secret) -> Result<(), &'static str> {
    let fits = secret.expose().chars().count() <= MAX_CLIENT_STATE;
    if fits { Ok(()) } else { Err("a clientState has at most 128 characters") }
}

/// Verifies a request: the `clientState` of every notification must be one of the secrets, of which there are 1 to 4.
pub(super) fn verify(secrets: &[Secret], request: &Request<'_>) -> Result<Verified, Rejection> {
    let reject = |check, detail: String| Rejection::new(check, detail);
    let body =
        std::str::from_utf8(request.body).ok().and_then(|body| serde_json::from_str::<Body>(body).ok());
    let body = body.ok_or_else(|| {
        let detail =
            format!("the body is not JSON with one list \"value\" of at most {MAX_ITEMS} notifications");
        reject(Check::Header, detail)
    })?;
    (request.pause)();
    let mut first = None;
    for (number, item) in (1..).zip(&body.value.0) {
        let state = item.client_state.as_deref().filter(|state| !state.is_empty());
        let state = state
            .ok_or_else(|| reject(Check::Header, format!("notification {number} has no clientState")))?;
        let is_state = |secret: &Secret| secret.expose().as_bytes().ct_eq(state.as_bytes()).into();
        let secret = secrets.iter().position(is_state).ok_or_else(|| {
            let detail = format!("the clientState of notification {number} is no secret of the source");
            reject(Check::Signature, detail)
        })?;
        first.get_or_insert((secret + 1, item));
    }
    let (secret, item) = first.ok_or_else(|| reject(Check::Header, "there is no notification".to_owned()))?;
    Ok(Verified {
        event_type: item.event_type(),
        delivery_id: None,
        secret,
        signed: "nothing, every clientState was compared".to_owned(),
        covers: Covers::Nothing,
    })
}

/// Writes the secret into every notification.
pub(super) fn sign(secret: &Secret, unsigned: &Unsigned<'_>) -> Result<Signed, SignError> {
    let path = |text: String| JsonPath::parse("clientState", &text).expect("it has at most 3 segments");
    let mut body = unsigned.body.to_vec();
    for number in 0..MAX_ITEMS {
        let is_there = matches!(path(format!("value.{number}")).raw(&body), Ok(Some(_)));
        if number > 0 && !is_there {
            break;
        }
        let state = path(format!("value.{number}.clientState"));
        body = replaced(&state, &body, secret.expose(), "clientState")?;
    }
    Ok(Signed { headers: Vec::new(), body: Some(body) })
}

/// The comparison in words.
pub(super) fn describe() -> Description {
    Description {
        algorithm: "token",
        signature: "JSON member clientState of every element of value: the secret itself".to_owned(),
        signed: "nothing".to_owned(),
        covers: Covers::Nothing,
        timestamp: None,
        tolerance: None,
        key: "the secret as it is, at most 128 characters".to_owned(),
        id: None,
        event: Some("JSON member value.0.changeType, then a dot and JSON member value.0.resource".to_owned()),
    }
}
