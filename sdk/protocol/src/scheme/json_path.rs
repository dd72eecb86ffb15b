//! Paths into a JSON document. The values of any number of paths are found in one pass, without building the document.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Request, TemplateError, source::LookupError};

/// The most segments of a JSON path.
const MAX_PATH_SEGMENTS: usize = 8;

/// A path into a JSON document: names of members and indexes of arrays, joined by dots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JsonPath(Vec<String>);

impl JsonPath {
    pub(super) fn parse(field: &'static str, text: &str) -> Result<Self, TemplateError> {
        let segments: Vec<_> = text.split('.').map(str::to_owned).collect();
        if segments.len() > MAX_PATH_SEGMENTS || segments.iter().any(String::is_empty) {
            return Err(TemplateError::new(field, "must have a JSON path of 1 to 8 segments joined by dots"));
        }
        Ok(Self(segments))
    }

    pub(super) fn segments(&self) -> &[String] {
        &self.0
    }

    /// Returns the value as [`Found::text`].
    pub(super) fn find(&self, request: &Request<'_>) -> Result<Option<String>, LookupError> {
        let found = self.find_alone(request.body)?;
        (request.pause)();
        found.text(self)
    }

    /// Returns the JSON text of the value as a slice of the body.
    pub(super) fn raw<'a>(&self, body: &'a [u8]) -> Result<Option<&'a str>, LookupError> {
        self.find_alone(body)?.raw(self)
    }

    fn find_alone<'a>(&self, body: &'a [u8]) -> Result<Found<'a>, LookupError> {
        let found = find_all(&[self], body).and_then(|found| found.first().copied());
        found.ok_or_else(|| self.invalid())
    }

    pub(super) fn invalid(&self) -> LookupError {
        LookupError::Json(self.to_string())
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

fn index(segment: &str) -> Option<usize> {
    segment.parse().ok()
}

/// What is at the end of a path.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found<'d> {
    value: Option<&'d RawValue>,
    /// Whether a name on the path is repeated beside it: another parser could read the other value.
    repeated: bool,
    /// Whether an array on the path has other elements than this one, or is an object.
    several: bool,
}

impl<'d> Found<'d> {
    fn raw(self, path: &JsonPath) -> Result<Option<&'d str>, LookupError> {
        if self.repeated { Err(path.invalid()) } else { Ok(self.value.map(RawValue::get)) }
    }

    /// Returns the text of a string, or a number or boolean as received. `None` if it is absent or null.
    pub(super) fn text(self, path: &JsonPath) -> Result<Option<String>, LookupError> {
        match self.raw(path)? {
            None | Some("null") => Ok(None),
            Some(text) if text.starts_with('"') => {
                serde_json::from_str(text).map(Some).map_err(|_| path.invalid())
            }
            Some(text) if text.starts_with(['{', '[']) => Err(path.invalid()),
            Some(text) => Ok(Some(text.to_owned())),
        }
    }

    /// As [`Found::text`], for a value that is signed: an array on the path must have this one element, since the
    /// signature says nothing about others.
    pub(super) fn signed_text(self, path: &JsonPath) -> Result<Option<String>, LookupError> {
        if self.several && !self.repeated {
            return Err(LookupError::Unsigned(path.to_string()));
        }
        self.text(path)
    }
}

/// Finds what is at the end of each path. `None` if the body is not JSON.
pub(super) fn find_all<'a>(paths: &[&JsonPath], body: &'a [u8]) -> Option<Vec<Found<'a>>> {
    let mut found = vec![Found::default(); paths.len()];
    let mut json = serde_json::Deserializer::from_str(std::str::from_utf8(body).ok()?);
    let paths = paths.iter().enumerate().map(|(at, path)| (at, path.segments())).collect();
    Walk { paths, found: &mut found }.deserialize(&mut json).ok()?;
    json.end().ok()?;
    Some(found)
}

/// The number of a path, and its segments that are not followed yet.
type Rest<'p> = (usize, &'p [String]);

/// Follows the paths that lead to a value.
struct Walk<'w, 'p, 'd> {
    paths: Vec<Rest<'p>>,
    found: &'w mut [Found<'d>],
}

impl<'d> DeserializeSeed<'d> for Walk<'_, '_, 'd> {
    type Value = ();

    fn deserialize<D: Deserializer<'d>>(self, deserializer: D) -> Result<(), D::Error> {
        let Self { paths, found } = self;
        let (ended, paths): (Vec<_>, Vec<_>) = paths.into_iter().partition(|(_, rest)| rest.is_empty());
        if ended.is_empty() {
            return deserializer.deserialize_any(Self { paths, found });
        }
        let value: &'d RawValue = serde::Deserialize::deserialize(deserializer)?;
        for (at, _) in ended {
            found[at].value = Some(value);
        }
        if paths.is_empty() {
            return Ok(());
        }
        // One path is the beginning of another.
        let mut json = serde_json::Deserializer::from_str(value.get());
        Self { paths, found }.deserialize(&mut json).map_err(D::Error::custom)
    }
}

/// The name of a member: borrowed from the document unless it has escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The paths that lead to a member, and whether it was seen.
#[derive(Default)]
struct Member<'p> {
    paths: Vec<Rest<'p>>,
    seen: bool,
}

impl<'d> Visitor<'d> for Walk<'_, '_, 'd> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'d>>(self, mut map: A) -> Result<(), A::Error> {
        let mut members: BTreeMap<&str, Member<'_>> = BTreeMap::new();
        for (at, path) in &self.paths {
            members.entry(&path[0]).or_default().paths.push((*at, &path[1..]));
            self.found[*at].several |= index(&path[0]).is_some();
        }
        while let Some(Name(name)) = map.next_key()? {
            match members.get_mut(&*name) {
                Some(member) if !member.seen => {
                    member.seen = true;
                    map.next_value_seed(Walk { paths: member.paths.clone(), found: self.found })?;
                }
                other => {
                    for (at, _) in other.into_iter().flat_map(|member| &member.paths) {
                        self.found[*at].repeated = true;
                    }
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'d>>(self, mut items: A) -> Result<(), A::Error> {
        let mut count = 0;
        loop {
            let here = self.paths.iter().filter(|(_, path)| index(&path[0]) == Some(count));
            let paths: Vec<_> = here.map(|(at, path)| (*at, &path[1..])).collect();
            let item = if paths.is_empty() {
                items.next_element::<IgnoredAny>()?.map(drop)
            } else {
                items.next_element_seed(Walk { paths, found: self.found })?
            };
            if item.is_none() {
                break;
            }
            count += 1;
        }
        for (at, path) in &self.paths {
            let own = usize::from(index(&path[0]).is_some_and(|own| own < count));
            self.found[*at].several |= count > own;
        }
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
