//! Reads the values of a request that templates ask for.

use std::{borrow::Cow, cell::OnceCell};

use super::{
    Request,
    json_path::{Found, JsonPath, find_all},
    lookup::LookupError,
    source::{Source, form, header},
    template::Template,
};

/// The name and the value of a field of a form.
pub(super) type Field = (String, Vec<u8>);

/// A request whose body is parsed as JSON, and decoded as a form, at most once for all templates.
pub(super) struct Reader<'a> {
    pub(super) request: Request<'a>,
    /// The paths that the templates name.
    paths: Vec<&'a JsonPath>,
    /// The fields of forms that the templates name.
    names: Vec<&'a str>,
    /// What is at the end of each path. `None` if the body is not JSON.
    found: OnceCell<Option<Vec<Found<'a>>>>,
    form: OnceCell<Result<Vec<Field>, LookupError>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(templates: &'a [Template], request: Request<'a>) -> Self {
        let mut paths: Vec<&JsonPath> = Vec::new();
        for path in templates.iter().flat_map(Template::json_paths) {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        let names = templates.iter().flat_map(Template::form_names).collect();
        Self { request, paths, names, found: OnceCell::new(), form: OnceCell::new() }
    }

    /// A reader of the same request with another body.
    pub(super) fn with_body<'b>(&self, body: &'b [u8]) -> Reader<'b>
    where
        'a: 'b,
    {
        let request = Request { body, ..self.request };
        let (paths, names) = (self.paths.clone(), self.names.clone());
        Reader { request, paths, names, found: OnceCell::new(), form: OnceCell::new() }
    }

    /// Returns the value, `None` if the request does not have it.
    pub(super) fn find(&self, source: &Source) -> Result<Option<Cow<'a, [u8]>>, LookupError> {
        match source {
            Source::Header(name) => Ok(header(&self.request, name)?.map(Cow::Borrowed)),
            Source::Json(path) => Ok(self.found(path)?.text(path)?.map(|text| Cow::Owned(text.into_bytes()))),
        }
    }

    /// Returns a value of the JSON body that is signed.
    pub(super) fn find_signed(&self, path: &JsonPath) -> Result<Option<String>, LookupError> {
        self.found(path)?.signed_text(path)
    }

    fn found(&self, path: &JsonPath) -> Result<Found<'a>, LookupError> {
        let found = self.found.get_or_init(|| find_all(&self.paths, self.request.body, self.request.pause));
        let at = self.paths.iter().position(|other| *other == path).expect("the templates name the path");
        found.as_ref().map(|found| found[at]).ok_or_else(|| path.invalid())
    }

    /// Returns the fields of the form body, which must be some of `names` only: a field that is not signed would otherwise
    /// reach the app beside those that are.
    pub(super) fn form(&self, names: &[&str]) -> Result<&[Field], LookupError> {
        let fields = self.form.get_or_init(|| form(&self.request, &self.names));
        let fields = fields.as_ref().map_err(Clone::clone)?;
        if fields.iter().all(|(name, _)| names.contains(&name.as_str())) {
            Ok(fields)
        } else {
            Err(LookupError::Form)
        }
    }
}
