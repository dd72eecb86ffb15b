//! The content that a signature covers.

use std::{borrow::Cow, cmp::Ordering};

use super::{
    Check, Rejection, TemplateError,
    json_path::JsonPath,
    key::contains,
    reader::{Field, Reader},
    source::{Source, header, header_name},
    template::{Template, Timestamp},
};

/// The most placeholders in a content.
const MAX_PLACEHOLDERS: usize = 16;

/// The signed content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// The parts in order.
    parts: Vec<Part>,
    /// The part whose value may contain separators: the body, otherwise the one marked with `*` or the last one of variable
    /// length. All others are separated from their neighbours.
    free: Option<usize>,
}

/// A part of the signed content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Literal(String),
    Body,
    Timestamp,
    Id,
    Url,
    Method,
    Header { name: String, optional: bool },
    Json { path: JsonPath, optional: bool },
    Form { name: String, optional: bool },
}

impl Part {
    fn parse(text: &str) -> Result<Self, TemplateError> {
        let (text, optional) = text.strip_suffix('?').map_or((text, false), |text| (text, true));
        let part = match text.split_once(':') {
            None if optional => return Err(invalid("only header:, json: and form: may end with ?")),
            None => match text {
                "body" => Self::Body,
                "timestamp" => Self::Timestamp,
                "id" => Self::Id,
                "url" => Self::Url,
                "method" => Self::Method,
                _ => return Err(unknown_placeholder(text)),
            },
            Some(("header", name)) => Self::Header { name: header_name("content", name)?, optional },
            Some(("json", path)) => Self::Json { path: JsonPath::parse("content", path)?, optional },
            Some(("form", name)) if !name.is_empty() => Self::Form { name: name.to_owned(), optional },
            Some(_) => return Err(unknown_placeholder(text)),
        };
        Ok(part)
    }

    /// Where the value is read, in words: parts with the same words have the same value.
    fn origin(&self, id: Option<&Source>, timestamp: Option<&Timestamp>) -> String {
        let source = match self {
            Self::Id => id,
            Self::Timestamp => timestamp.and_then(Timestamp::source),
            _ => None,
        };
        match (self, source) {
            (Self::Header { name, .. }, _) | (_, Some(Source::Header(name))) => {
                format!("header {}", name.to_ascii_lowercase())
            }
            (_, Some(Source::Json(path))) => format!("JSON member {path}"),
            (_, None) => self.describe().into_owned(),
        }
    }

    /// The part in words.
    fn describe(&self) -> Cow<'static, str> {
        match self {
            Self::Literal(_) => "".into(),
            Self::Body => "body".into(),
            Self::Timestamp => "timestamp".into(),
            Self::Id => "delivery id".into(),
            Self::Url => "URL".into(),
            Self::Method => "method".into(),
            Self::Header { name, .. } => format!("header {name}").into(),
            Self::Json { path, .. } => format!("JSON member {path}").into(),
            Self::Form { name, .. } => format!("form field {name}").into(),
        }
    }
}

fn unknown_placeholder(text: &str) -> TemplateError {
    let text = format!("{{{text}}}");
    let reason = format!(
        "has an unknown placeholder {text:?}; known ones: {{body}}, {{timestamp}}, {{id}}, {{url}}, {{method}}, \
         {{header:NAME}}, {{json:PATH}}, {{form:NAME}}"
    );
    TemplateError::new("content", reason)
}

fn invalid(reason: &'static str) -> TemplateError {
    TemplateError::new("content", reason)
}

impl Content {
    /// Parses a text with placeholders in braces.
    pub(super) fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut marked = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (literal, after) = rest.split_once('{').unwrap_or((rest, ""));
            if literal.contains('}') {
                return Err(invalid("has a } without its {"));
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            if literal.len() == rest.len() {
                break;
            }
            let (placeholder, after) =
                after.split_once('}').ok_or_else(|| invalid("has a { without its }"))?;
            if placeholder.ends_with('*') {
                marked.push(parts.len());
            }
            parts.push(Part::parse(placeholder.strip_suffix('*').unwrap_or(placeholder))?);
            rest = after;
        }
        match parts.iter().filter(|part| !matches!(part, Part::Literal(_))).count() {
            0 => return Err(invalid("must have a placeholder such as {body}")),
            1..=MAX_PLACEHOLDERS => {}
            _ => return Err(invalid("has more than 16 placeholders")),
        }
        let body = parts.iter().position(|part| *part == Part::Body);
        let free = match (body, &marked[..]) {
            (_, []) => body.or_else(|| parts.iter().rposition(Part::is_variable)),
            (None, [one]) if parts[*one].is_variable() => Some(*one),
            _ => {
                return Err(invalid(
                    "must have at most one *, in a {header:…*}, {json:…*} or {form:…*}, and none beside {body}",
                ));
            }
        };
        Ok(Self { parts, free })
    }

    /// Checks that each value is there once, and separated from its neighbours.
    pub(super) fn check(
        &self,
        id: Option<&Source>,
        timestamp: Option<&Timestamp>,
    ) -> Result<(), TemplateError> {
        self.check_repeats(id, timestamp)?;
        self.check_boundaries()
    }

    /// Refuses a content that has a part of the request twice: a pass over it would be a multiple of one over the body. A
    /// timestamp of the body may be beside the body, as it is short.
    fn check_repeats(&self, id: Option<&Source>, timestamp: Option<&Timestamp>) -> Result<(), TemplateError> {
        let parts = self.parts.iter().filter(|part| !matches!(part, Part::Literal(_)));
        let mut origins: Vec<_> = parts.map(|part| part.origin(id, timestamp)).collect();
        let count = origins.len();
        origins.sort_unstable();
        origins.dedup();
        if origins.len() < count {
            return Err(invalid("must have each value once: {id} and {timestamp} stand for their sources"));
        }
        let is_json = |part: &Part| {
            matches!(part, Part::Json { .. }) || *part == Part::Id && id.is_some_and(|id| id.json().is_some())
        };
        let kinds = [self.contains(&Part::Body), self.parts.iter().any(is_json), self.has_form()];
        if kinds.into_iter().filter(|kind| *kind).count() > 1 {
            return Err(invalid(
                "must not have {json:…}, {form:…} or an {id} of the body beside {body}, which has them already, nor {form:…} \
                 beside a value of a JSON body",
            ));
        }
        Ok(())
    }

    /// The parts that are separated from the free part or from each other: each with its separator, and whether the
    /// separator is after it.
    fn separated_parts(&self) -> impl Iterator<Item = (usize, Option<&str>, bool)> {
        let literal = |at: usize| match self.parts.get(at) {
            Some(Part::Literal(text)) => Some(text.as_str()),
            _ => None,
        };
        let separated = move |at: usize| match Some(at).cmp(&self.free) {
            Ordering::Equal => None,
            Ordering::Less => Some((at, literal(at + 1), true)),
            Ordering::Greater => Some((at, at.checked_sub(1).and_then(literal), false)),
        };
        (0..self.parts.len()).filter(|at| self.parts[*at].is_variable()).filter_map(separated)
    }

    /// Refuses a content in which two parts of variable length have no separator between them: bytes could be moved from
    /// one to the other, and the signature would still be valid.
    fn check_boundaries(&self) -> Result<(), TemplateError> {
        match self.separated_parts().find(|(_, separator, _)| separator.is_none()) {
            Some((at, _, is_after)) => {
                let side = if is_after { "after" } else { "before" };
                let part = self.parts[at].describe();
                let reason = format!(
                    "needs a separator, such as a dot, right {side} the {part}: otherwise bytes could be \
                     moved between it and its neighbour without changing the signed content"
                );
                Err(TemplateError::new("content", reason))
            }
            None => Ok(()),
        }
    }

    pub(super) fn json_paths(&self) -> impl Iterator<Item = &JsonPath> {
        self.parts.iter().filter_map(|part| match part {
            Part::Json { path, .. } => Some(path),
            _ => None,
        })
    }

    pub(super) fn form_names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Form { name, .. } => Some(name.as_str()),
            _ => None,
        })
    }

    pub(super) fn contains(&self, part: &Part) -> bool {
        self.parts.contains(part)
    }

    /// Whether a value of the header is signed.
    pub(super) fn has_header(&self, header: &str) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Header { name, .. } if name.eq_ignore_ascii_case(header)))
    }

    pub(super) fn has_form(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Form { .. }))
    }

    /// Whether nothing but the body, or the only field of a form, is signed.
    pub(super) fn is_document(&self) -> bool {
        matches!(&self.parts[..], [Part::Body | Part::Form { optional: false, .. }])
    }

    /// The signed value of a form field, of the `content` that was collected: the JSON document in place of the body.
    pub(super) fn form_document<'c>(&self, content: &'c [Cow<'_, [u8]>]) -> Option<&'c [u8]> {
        let at = self.parts.iter().position(|part| matches!(part, Part::Form { .. }))?;
        content.get(at).map(AsRef::as_ref)
    }

    /// What is signed, in words.
    pub(super) fn describe(&self) -> String {
        let words: Vec<_> = self.parts.iter().map(Part::describe).filter(|words| !words.is_empty()).collect();
        words.join(", ")
    }

    /// Collects the signed bytes, without a copy of the body. `timestamp` is its text as received.
    pub(super) fn collect<'r>(
        &'r self,
        template: &Template,
        reader: &'r Reader<'_>,
        timestamp: Option<&'r [u8]>,
    ) -> Result<Vec<Cow<'r, [u8]>>, Rejection> {
        let names: Vec<&str> = self.form_names().collect();
        let fields = if names.is_empty() { &[] } else { reader.form(&names).map_err(Rejection::content)? };
        let value = |part| value(part, template, reader, timestamp, fields);
        let values = self.parts.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        self.check_separators(&values, reader.request.pause)?;
        Ok(values)
    }

    /// Refuses a value that contains its separator: the boundary between it and the next part could be moved into the body,
    /// to a digit sequence that reads as a fresh timestamp.
    fn check_separators(&self, values: &[Cow<'_, [u8]>], pause: fn()) -> Result<(), Rejection> {
        for (at, separator, is_after) in self.separated_parts() {
            let (value, separator) = (values[at].as_ref(), separator.unwrap_or_default());
            // A separator that only begins in the value counts as well, as in `x.` before `..`.
            let near = value.len().min(separator.len().saturating_sub(1));
            let joint = if is_after {
                [&value[value.len() - near..], separator.as_bytes()].concat()
            } else {
                [separator.as_bytes(), &value[..near]].concat()
            };
            let found = joint.windows(separator.len()).filter(|window| *window == separator.as_bytes());
            if found.count() != 1 || contains(value, separator.as_bytes(), pause) {
                let detail =
                    format!("the {} contains the separator {separator:?}", self.parts[at].describe());
                return Err(Rejection::new(Check::Content, detail));
            }
        }
        Ok(())
    }
}

impl Part {
    /// Whether the length of its value is chosen by the sender of a request. The URL is configured, the method of an event
    /// is `POST`, and no timestamp is the beginning or the end of another one.
    fn is_variable(&self) -> bool {
        match self {
            Self::Literal(_) | Self::Timestamp | Self::Url | Self::Method => false,
            Self::Body | Self::Id | Self::Header { .. } | Self::Json { .. } | Self::Form { .. } => true,
        }
    }
}

fn value<'r>(
    part: &'r Part,
    template: &Template,
    reader: &'r Reader<'_>,
    timestamp: Option<&'r [u8]>,
    fields: &'r [Field],
) -> Result<Cow<'r, [u8]>, Rejection> {
    let request = &reader.request;
    let (found, optional) = match part {
        Part::Literal(text) => (Some(text.as_bytes().into()), false),
        Part::Body => (Some(request.body.into()), false),
        Part::Method => (Some(request.method.as_bytes().into()), false),
        Part::Url => (request.url.map(|url| url.as_bytes().into()), false),
        Part::Timestamp => (timestamp.map(Cow::Borrowed), false),
        Part::Id => match &template.id {
            Some(id) => (reader.find(id).map_err(Rejection::content)?.filter(|id| !id.is_empty()), false),
            None => (None, false),
        },
        Part::Header { name, optional } => {
            (header(request, name).map_err(Rejection::content)?.map(Cow::Borrowed), *optional)
        }
        Part::Json { path, optional } => {
            let found = reader.find_signed(path).map_err(Rejection::content)?;
            (found.map(|text| text.into_bytes().into()), *optional)
        }
        Part::Form { name, optional } => {
            let found = fields.iter().find(|(other, _)| other == name);
            (found.map(|(_, value)| value.as_slice().into()), *optional)
        }
    };
    match (found, part, &template.id) {
        (Some(value), ..) => Ok(value),
        (None, ..) if optional => Ok(Cow::Borrowed(b"")),
        (None, Part::Id, Some(id)) => {
            Err(Rejection::new(Check::Content, format!("the delivery id is missing: {id}")))
        }
        (None, ..) => Err(Rejection::new(Check::Content, format!("the request has no {}", part.describe()))),
    }
}
