//! The table of challenges, parsed once into types.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Map, Value};

use crate::scheme::{TemplateError, source::Source};

/// The challenges of all presets: data, so that each row can be checked against the sender's documentation.
const TABLE: &str = include_str!("../challenges.json");

/// How a sender's challenge is recognised and answered.
#[derive(Debug)]
pub(super) struct Challenge {
    pub(super) method: String,
    /// All must hold.
    pub(super) when: Vec<(Place, Condition)>,
    /// Whether the request must have a valid signature.
    pub(super) signed: bool,
    /// Where the request has the challenge secret of the source.
    pub(super) token: Option<Place>,
    /// Where the request has the secret that it sets.
    pub(super) sets: Option<Place>,
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) headers: Vec<(String, Pattern)>,
    pub(super) body: Body,
}

/// A place in a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Body,
    /// The only query parameter of this name, decoded once.
    Query(String),
    /// A header, or a member of the JSON body.
    Source(Source),
}

#[derive(Debug)]
pub(super) enum Condition {
    Present,
    Absent,
    Equals(String),
}

#[derive(Debug)]
pub(super) enum Body {
    Text(Pattern),
    /// A JSON object.
    Json(Vec<(String, Member)>),
}

#[derive(Debug)]
pub(super) enum Member {
    Text(Pattern),
    Value(Value),
}

/// A text with values of the request in it.
#[derive(Debug, Default)]
pub(super) struct Pattern(pub(super) Vec<Part>);

#[derive(Debug)]
pub(super) enum Part {
    Literal(String),
    /// The value itself.
    Echo(Place),
    /// The HMAC-SHA256 of the value under the secret of the source.
    HmacHex(Place),
    HmacBase64(Place),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Row {
    scheme: String,
    /// The documentation or code that the row was made from.
    #[serde(rename = "source")]
    _source: String,
    method: String,
    when: BTreeMap<String, Value>,
    #[serde(default)]
    signed: bool,
    challenge_secret: Option<String>,
    sets: Option<String>,
    status: u16,
    r#type: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Value,
}

static CHALLENGES: LazyLock<BTreeMap<String, Vec<Challenge>>> = LazyLock::new(|| {
    let rows: Vec<Row> = serde_json::from_str(TABLE).expect("challenges.json is parsed in the tests");
    let mut table: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        let scheme = row.scheme.clone();
        let challenge = Challenge::parse(row).expect("each row of challenges.json is parsed in the tests");
        table.entry(scheme).or_default().push(challenge);
    }
    table
});

/// The challenges of a preset.
pub(super) fn challenges(preset: &str) -> &'static [Challenge] {
    CHALLENGES.get(preset).map_or(&[], Vec::as_slice)
}

fn invalid(reason: &'static str) -> TemplateError {
    TemplateError::new("challenge", reason)
}

impl Challenge {
    fn parse(row: Row) -> Result<Self, TemplateError> {
        let place = |text: Option<String>| text.map(|text| Place::parse(&text)).transpose();
        let condition =
            |(place, value): (String, Value)| Ok((Place::parse(&place)?, Condition::parse(value)?));
        let header = |(name, text): (String, String)| Ok((name, Pattern::parse(&text)?));
        Ok(Self {
            method: row.method,
            when: row.when.into_iter().map(condition).collect::<Result<_, _>>()?,
            signed: row.signed,
            token: place(row.challenge_secret)?,
            sets: place(row.sets)?,
            status: row.status,
            content_type: match row.r#type.as_str() {
                "application/json" => super::JSON,
                "text/plain" => super::TEXT,
                _ => return Err(invalid("has a type that is neither application/json nor text/plain")),
            },
            headers: row.headers.into_iter().map(header).collect::<Result<_, _>>()?,
            body: Body::parse(row.body)?,
        })
    }
}

impl Place {
    fn parse(text: &str) -> Result<Self, TemplateError> {
        match text.split_once(':') {
            None if text == "body" => Ok(Self::Body),
            Some(("query", name)) => Ok(Self::Query(name.to_owned())),
            _ => Source::parse("challenge", text).map(Self::Source),
        }
    }
}

impl Condition {
    fn parse(value: Value) -> Result<Self, TemplateError> {
        match value {
            Value::Bool(true) => Ok(Self::Present),
            Value::Bool(false) => Ok(Self::Absent),
            Value::String(text) => Ok(Self::Equals(text)),
            _ => Err(invalid("has a condition that is neither true, false nor a text")),
        }
    }
}

impl Body {
    fn parse(body: Value) -> Result<Self, TemplateError> {
        match body {
            Value::Null => Ok(Self::Text(Pattern::default())),
            Value::String(text) => Pattern::parse(&text).map(Self::Text),
            Value::Object(members) => Self::parse_members(members).map(Self::Json),
            _ => Err(invalid("has a body that is neither a text nor an object")),
        }
    }

    fn parse_members(members: Map<String, Value>) -> Result<Vec<(String, Member)>, TemplateError> {
        let member = |(name, value)| match value {
            Value::String(text) => Ok((name, Member::Text(Pattern::parse(&text)?))),
            value => Ok((name, Member::Value(value))),
        };
        members.into_iter().map(member).collect()
    }
}

impl Pattern {
    /// Parses a text with `{PLACE}`, `{hmac-hex:PLACE}` and `{hmac-base64:PLACE}`.
    fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let (placeholder, after) =
                after.split_once('}').ok_or_else(|| invalid("has a { without its }"))?;
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(match placeholder.split_once(':') {
                Some(("hmac-hex", place)) => Part::HmacHex(Place::parse(place)?),
                Some(("hmac-base64", place)) => Part::HmacBase64(Place::parse(place)?),
                _ => Part::Echo(Place::parse(placeholder)?),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::{Scheme, preset};

    fn has_hmac(pattern: &Pattern) -> bool {
        pattern.0.iter().any(|part| matches!(part, Part::HmacHex(_) | Part::HmacBase64(_)))
    }

    #[test]
    fn every_row_belongs_to_a_preset() {
        assert!(CHALLENGES.keys().all(|name| preset(name).is_some()));
    }

    /// Anyone can have a token signed by a challenge that needs no signature: it must not be a valid event.
    #[test]
    fn a_scheme_that_signs_what_anyone_sends_accepts_json_only() {
        let signs = |challenge: &Challenge| match &challenge.body {
            Body::Text(pattern) => has_hmac(pattern),
            Body::Json(members) => {
                members.iter().any(|(_, member)| matches!(member, Member::Text(pattern) if has_hmac(pattern)))
            }
        };
        let oracle = |list: &[Challenge]| list.iter().any(|challenge| !challenge.signed && signs(challenge));
        let names: Vec<_> =
            CHALLENGES.iter().filter(|(_, list)| oracle(list)).map(|(name, _)| name).collect();
        assert_eq!(names, ["x"]);
        assert!(names.iter().all(|name| Scheme::preset(name).unwrap().requires_json()));
    }
}
