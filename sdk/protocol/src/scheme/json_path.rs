//! Paths into a JSON document. The values of any number of paths are found in one pass, without building the document.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Request, TemplateError, lookup::LookupError};

/// The most segments of a JSON path.
const MAX_PATH_SEGMENTS: usize = 8;
/// How many elements or members are read between pauses: about 10 µs of work.
const ITEMS_PER_PAUSE: usize = 1024;

/// A path into a JSON document: names of members and indexes of arrays, joined by dots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JsonPath(Vec<Segment>);

/// The name of a member, which may also be the index of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    name: String,
    index: Option<usize>,
}

impl Segment {
    /// Parses a segment. An index has one text, so that two paths never lead to one element: `00` is a name only.
    fn parse(name: &str) -> Self {
        let index = name.parse().ok().filter(|index: &usize| index.to_string() == name);
        Self { name: name.to_owned(), index }
    }
}

impl JsonPath {
    pub(super) fn parse(field: &'static str, text: &str) -> Result<Self, TemplateError> {
        let segments: Vec<_> = text.split('.').map(Segment::parse).collect();
        if segments.len() > MAX_PATH_SEGMENTS || segments.iter().any(|segment| segment.name.is_empty()) {
            return Err(TemplateError::new(field, "must have a JSON path of 1 to 8 segments joined by dots"));
        }
        Ok(Self(segments))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|segment| segment.name.as_str())
    }

    /// Returns the value as [`Found::text`].
    pub(super) fn find(&self, request: &Request<'_>) -> Result<Option<String>, LookupError> {
        self.find_alone(request.body, request.pause)?.text(self)
    }

    /// Returns the JSON text of the value as a slice of the body.
    pub(super) fn raw<'a>(&self, body: &'a [u8]) -> Result<Option<&'a str>, LookupError> {
        self.find_alone(body, || {})?.raw(self)
    }

    fn find_alone<'a>(&self, body: &'a [u8], pause: fn()) -> Result<Found<'a>, LookupError> {
        let found = find_all(&[self], body, pause).and_then(|found| found.first().copied());
        found.ok_or_else(|| self.invalid())
    }

    pub(super) fn invalid(&self) -> LookupError {
        LookupError::Json(self.to_string())
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|segment| segment.name.as_str()).collect();
        f.write_str(&names.join("."))
    }
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

/// Finds what is at the end of each path. `None` if the body is not JSON. `pause` is called on the way and at the end.
pub(super) fn find_all<'a>(paths: &[&JsonPath], body: &'a [u8], pause: fn()) -> Option<Vec<Found<'a>>> {
    let mut found = vec![Found::default(); paths.len()];
    let mut json = serde_json::Deserializer::from_str(std::str::from_utf8(body).ok()?);
    let paths = paths.iter().enumerate().map(|(at, path)| (at, &path.0[..])).collect();
    let parsed = Walk { paths, found: &mut found, pause }.deserialize(&mut json).and_then(|()| json.end());
    pause();
    parsed.ok().map(|()| found)
}

/// The number of a path, and its segments that are not followed yet.
type Rest<'p> = (usize, &'p [Segment]);

/// Follows the paths that lead to a value.
struct Walk<'w, 'p, 'd> {
    paths: Vec<Rest<'p>>,
    found: &'w mut [Found<'d>],
    pause: fn(),
}

impl<'p, 'd> Walk<'_, 'p, 'd> {
    /// Follows the paths that lead to a member or an element of the value.
    fn with<'v>(&'v mut self, paths: Vec<Rest<'p>>) -> Walk<'v, 'p, 'd> {
        Walk { paths, found: &mut *self.found, pause: self.pause }
    }

    /// Pauses after some members or elements.
    fn pause_after(&self, count: usize) {
        if count.is_multiple_of(ITEMS_PER_PAUSE) {
            (self.pause)();
        }
    }
}

impl<'d> DeserializeSeed<'d> for Walk<'_, '_, 'd> {
    type Value = ();

    fn deserialize<D: Deserializer<'d>>(self, deserializer: D) -> Result<(), D::Error> {
        let Self { paths, found, pause } = self;
        let (ended, paths): (Vec<_>, Vec<_>) = paths.into_iter().partition(|(_, rest)| rest.is_empty());
        if ended.is_empty() {
            return deserializer.deserialize_any(Self { paths, found, pause });
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
        Self { paths, found, pause }.deserialize(&mut json).map_err(D::Error::custom)
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

    fn visit_map<A: MapAccess<'d>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut members: BTreeMap<&str, Member<'_>> = BTreeMap::new();
        for (at, path) in &self.paths {
            members.entry(&path[0].name).or_default().paths.push((*at, &path[1..]));
            self.found[*at].several |= path[0].index.is_some();
        }
        let mut count = 0;
        while let Some(Name(name)) = map.next_key()? {
            count += 1;
            self.pause_after(count);
            match members.get_mut(&*name) {
                Some(member) if !member.seen => {
                    member.seen = true;
                    map.next_value_seed(self.with(member.paths.clone()))?;
                }
                other => {
                    // The first repetition takes the paths: a name that is there again and again costs no more.
                    for (at, _) in other.into_iter().flat_map(|member| std::mem::take(&mut member.paths)) {
                        self.found[at].repeated = true;
                    }
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'d>>(mut self, mut items: A) -> Result<(), A::Error> {
        let mut elements: BTreeMap<usize, Vec<Rest<'_>>> = BTreeMap::new();
        for (at, path) in &self.paths {
            if let Some(index) = path[0].index {
                elements.entry(index).or_default().push((*at, &path[1..]));
            }
        }
        let mut count = 0;
        loop {
            let item = match elements.remove(&count) {
                None => items.next_element::<IgnoredAny>()?.map(drop),
                Some(paths) => items.next_element_seed(self.with(paths))?,
            };
            if item.is_none() {
                break;
            }
            count += 1;
            self.pause_after(count);
        }
        for (at, path) in &self.paths {
            let own = usize::from(path[0].index.is_some_and(|own| own < count));
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
