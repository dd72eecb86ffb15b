//! Makes the requests of a sender: samples, given bodies, and saved events.

use std::time::SystemTime;

use reqwest::{
    Method,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use wwproxy_sdk::{
    Secret,
    hook::OUTBOUND_RETRY_COUNT,
    scheme::{ChallengeRequest, Scheme, Unsigned, new_delivery_id},
};

use super::{
    Content,
    post::{Hook, Outgoing},
};
use crate::{error::UsageError, scheme::content_type, target::sender_headers};

/// The content type of Watson Work's webhooks.
const WATSON_WORK_JSON: &str = "application/json;charset=UTF-8";

/// Who sends: how it signs, and with which secret.
pub(super) struct Sender {
    pub(super) scheme: Scheme,
    pub(super) secret: Option<Secret>,
    /// The public URL that is signed, if it is not the destination.
    pub(super) url: Option<String>,
}

impl Sender {
    fn is_watson_work(&self) -> bool {
        self.scheme.name() == "watsonwork"
    }

    /// Makes a request, signed if there is a secret. Every request has an id of its own, if
    /// the sender has a header for it: otherwise the server's deduplication would drop the webhook.
    pub(super) fn request(&self, content: &Content, index: u64, hook: &Hook) -> Result<Outgoing, UsageError> {
        let now = SystemTime::now();
        let (body, content_type, event_type, saved) = match content {
            Content::Sample(kind) => {
                let sample = self.scheme.sample(kind, now);
                let sample =
                    sample.ok_or_else(|| UsageError(format!("there is no sample of type {kind}")))?;
                (sample.body.into(), sample.content_type, Some(kind.as_str()), None)
            }
            Content::Body(body, kind) => (body.clone(), content_type(body), kind.as_deref(), None),
            Content::Saved(event) => (event.body.clone(), content_type(&event.body), None, Some(&**event)),
        };
        let content_type = if self.is_watson_work() { WATSON_WORK_JSON } else { content_type };
        let mut headers = match content {
            Content::Saved(event) => sender_headers(event),
            _ => HeaderMap::new(),
        };
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(content_type));
        headers.extend(hook.headers().clone());
        let id = if self.is_watson_work() { index.to_string() } else { new_delivery_id() };
        let mut outgoing = Outgoing { method: Method::POST, url: hook.url(saved), headers, body };
        match &self.secret {
            Some(_) => self.sign(&mut outgoing, &id, event_type, now)?,
            None => self.replace_id(&mut outgoing.headers, &id)?,
        }
        if self.is_watson_work() {
            outgoing.headers.insert(OUTBOUND_RETRY_COUNT, HeaderValue::from_static("0"));
        }
        Ok(outgoing)
    }

    /// Sets the delivery id in each present header for it, as the alternatives of a scheme may have different headers. Adds the
    /// header of the first alternative if no such header is present.
    fn replace_id(&self, headers: &mut HeaderMap, id: &str) -> Result<(), UsageError> {
        let names = self.scheme.unsigned_id_headers();
        let present: Vec<_> = names.iter().copied().filter(|name| headers.contains_key(*name)).collect();
        let replaced = if present.is_empty() { &names[..names.len().min(1)] } else { &present };
        replaced.iter().try_for_each(|name| insert(headers, name, id))
    }

    /// Makes the request of a challenge.
    pub(super) fn challenge(&self, challenge: ChallengeRequest, hook: &Hook) -> Result<Outgoing, UsageError> {
        let mut headers = HeaderMap::new();
        for (name, value) in &challenge.headers {
            insert(&mut headers, name, value)?;
        }
        let mut url = hook.url(None);
        if !challenge.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&challenge.query);
        }
        let method = challenge.method.parse().unwrap_or(Method::POST);
        let mut outgoing = Outgoing { method, url, headers, body: challenge.body.into() };
        if challenge.signed {
            self.sign(&mut outgoing, &new_delivery_id(), None, SystemTime::now())?;
        }
        Ok(outgoing)
    }

    /// Adds the sender's headers. A sender that writes the signature or the time into the body changes the body.
    fn sign(
        &self,
        outgoing: &mut Outgoing,
        id: &str,
        event_type: Option<&str>,
        time: SystemTime,
    ) -> Result<(), UsageError> {
        let Some(secret) = &self.secret else { return Ok(()) };
        let text = |(name, value): (_, &HeaderValue)| Some((name, value.to_str().ok()?.to_owned()));
        let given: Vec<(&HeaderName, String)> = outgoing.headers.iter().filter_map(text).collect();
        let given: Vec<_> = given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let url = self.url.as_deref().unwrap_or(outgoing.url.as_str());
        let unsigned = Unsigned {
            method: outgoing.method.as_str(),
            url: Some(url),
            headers: &given,
            body: &outgoing.body,
            delivery_id: id,
            event_type,
            time,
        };
        let signed = self.scheme.sign(secret, &unsigned).map_err(|error| UsageError(error.to_string()))?;
        for (name, value) in &signed.headers {
            insert(&mut outgoing.headers, name, value)?;
        }
        if let Some(body) = signed.body {
            outgoing.body = body.into();
        }
        Ok(())
    }

    /// A note if the delivery id of a webhook was sent before and cannot be replaced: the server may treat it as a duplicate.
    pub(super) fn note_of_repeated_ids(&self, content: &Content, count: u64) -> Option<String> {
        let id = self.scheme.describe().into_iter().next()?.id?;
        let name = self.scheme.name();
        let is_in_body = id.starts_with("JSON member");
        match content {
            Content::Body(..) if is_in_body && count > 1 => Some(format!(
                "note: {name} has its delivery id in the body ({id}): the server stores one of equal ids"
            )),
            Content::Saved(_) if is_in_body => Some(format!(
                "note: {name} has its delivery id in the body ({id}): the server may treat this event as a duplicate, accept it and \
                 not store it; `wwproxy replay` hands it to a target without the server"
            )),
            Content::Saved(_) if self.secret.is_none() && self.scheme.unsigned_id_headers().is_empty() => {
                Some(format!(
                    "note: the signature of {name} covers the delivery id ({id}), which stays without the webhook secret: the server \
                     may treat this event as a duplicate, accept it and not store it; give the webhook secret to sign it with a new \
                     id, or use `wwproxy replay`, which hands it to a target without the server"
                ))
            }
            _ => None,
        }
    }
}

fn insert(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), UsageError> {
    let invalid = || UsageError(format!("the header {name} cannot be sent"));
    let name: HeaderName = name.parse().map_err(|_| invalid())?;
    headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| invalid())?);
    Ok(())
}
