//! The content that a signature covers.

use std::borrow::Cow;

use super::{
    Check, Rejection, Request, TemplateError,
    source::{JsonPath, form, header, header_name},
    template::Template,
};

/// The most placeholders in a content: each may cost a pass over the body.
const MAX_PLACEHOLDERS: usize = 16;

/// The signed content as its parts in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content(Vec<Part>);

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
                _ => return Err(invalid("has an unknown placeholder")),
            },
            Some(("header", name)) => Self::Header { name: header_name("content", name)?, optional },
            Some(("json", path)) => Self::Json { path: JsonPath::parse("content", path)?, optional },
            Some(("form", name)) if !name.is_empty() => Self::Form { name: name.to_owned(), optional },
            Some(_) => return Err(invalid("has an unknown placeholder")),
        };
        Ok(part)
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

fn invalid(reason: &'static str) -> TemplateError {
    TemplateError::new("content", reason)
}

impl Content {
    /// Parses a text with placeholders in braces.
    pub(super) fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
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
            parts.push(Part::parse(placeholder)?);
            rest = after;
        }
        match parts.iter().filter(|part| !matches!(part, Part::Literal(_))).count() {
            0 => Err(invalid("must have a placeholder such as {body}")),
            1..=MAX_PLACEHOLDERS => Ok(Self(parts)),
            _ => Err(invalid("has more than 16 placeholders")),
        }
    }

    pub(super) fn contains(&self, part: &Part) -> bool {
        self.0.contains(part)
    }

    /// Whether a value of the header is signed.
    pub(super) fn has_header(&self, header: &str) -> bool {
        self.0
            .iter()
            .any(|part| matches!(part, Part::Header { name, .. } if name.eq_ignore_ascii_case(header)))
    }

    pub(super) fn has_form(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Form { .. }))
    }

    /// The signed value of a form field, of the `content` that was collected: the JSON document in place of the body.
    pub(super) fn form_document<'c>(&self, content: &'c [Cow<'_, [u8]>]) -> Option<&'c [u8]> {
        let at = self.0.iter().position(|part| matches!(part, Part::Form { .. }))?;
        content.get(at).map(AsRef::as_ref)
    }

    /// What is signed, in words.
    pub(super) fn describe(&self) -> String {
        let words: Vec<_> = self.0.iter().map(Part::describe).filter(|words| !words.is_empty()).collect();
        words.join(", ")
    }

    /// Whether the body follows the timestamp without a separator.
    fn joins_timestamp_and_body(&self) -> bool {
        self.0.windows(2).any(|pair| pair == [Part::Timestamp, Part::Body])
    }

    /// Collects the signed bytes, without a copy of the body. `timestamp` is its text as received.
    pub(super) fn collect<'a>(
        &'a self,
        template: &Template,
        request: &Request<'a>,
        timestamp: Option<&'a [u8]>,
    ) -> Result<Vec<Cow<'a, [u8]>>, Rejection> {
        // Otherwise a digit could move between the timestamp and the body.
        if self.joins_timestamp_and_body()
            && !request.body.starts_with(b"{")
            && !request.body.starts_with(b"[")
        {
            return Err(Rejection::new(
                Check::Content,
                "the body must begin with { or [, for it follows the timestamp",
            ));
        }
        let names: Vec<&str> = self.0.iter().filter_map(Part::form_name).collect();
        let fields =
            if names.is_empty() { Vec::new() } else { form(request, &names).map_err(Rejection::content)? };
        let value = |part| value(part, template, request, timestamp, &fields);
        let values = self.0.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        self.check_separators(&values)?;
        Ok(values)
    }

    /// Refuses a delivery id or header that contains the separator after it: the boundary between it and the next part
    /// could be moved into the body, to a digit sequence that reads as a fresh timestamp.
    fn check_separators(&self, values: &[Cow<'_, [u8]>]) -> Result<(), Rejection> {
        for (pair, value) in self.0.windows(2).zip(values) {
            if let [part @ (Part::Id | Part::Header { .. }), Part::Literal(separator)] = pair
                && value.windows(separator.len()).any(|window| window == separator.as_bytes())
            {
                let detail = format!("the {} contains the separator {separator:?}", part.describe());
                return Err(Rejection::new(Check::Content, detail));
            }
        }
        Ok(())
    }
}

impl Part {
    fn form_name(&self) -> Option<&str> {
        match self {
            Self::Form { name, .. } => Some(name),
            _ => None,
        }
    }
}

fn value<'a>(
    part: &'a Part,
    template: &Template,
    request: &Request<'a>,
    timestamp: Option<&'a [u8]>,
    fields: &[(String, Vec<u8>)],
) -> Result<Cow<'a, [u8]>, Rejection> {
    let (found, optional) = match part {
        Part::Literal(text) => (Some(text.as_bytes().into()), false),
        Part::Body => (Some(request.body.into()), false),
        Part::Method => (Some(request.method.as_bytes().into()), false),
        Part::Url => (request.url.map(|url| url.as_bytes().into()), false),
        Part::Timestamp => (timestamp.map(Cow::Borrowed), false),
        Part::Id => match &template.id {
            Some(id) => (id.find(request).map_err(Rejection::content)?.filter(|id| !id.is_empty()), false),
            None => (None, false),
        },
        Part::Header { name, optional } => {
            (header(request, name).map_err(Rejection::content)?.map(Cow::Borrowed), *optional)
        }
        Part::Json { path, optional } => {
            let found = path.find_signed(request).map_err(Rejection::content)?;
            (found.map(|text| text.into_bytes().into()), *optional)
        }
        Part::Form { name, optional } => {
            let found = fields.iter().find(|(other, _)| other == name);
            (found.map(|(_, value)| value.clone().into()), *optional)
        }
    };
    match found {
        Some(value) => Ok(value),
        None if optional => Ok(Cow::Borrowed(b"")),
        None => Err(Rejection::new(Check::Content, format!("the request has no {}", part.describe()))),
    }
}
