//! `--filter`: a jq program that says whether an event is wanted.

use std::{fmt, sync::Arc};

use jaq_core::{
    Compiler, Ctx, Vars, data,
    load::{Arena, File, Loader},
    unwrap_valr,
};
use jaq_json::{Val, read};

/// The deepest body that is filtered: the filter's parser goes as deep as its input.
const MAX_DEPTH: usize = 256;

/// A jq program over the body of an event.
#[derive(Clone)]
pub(crate) struct Filter {
    program: Arc<jaq_core::Filter<data::JustLut<Val>>>,
    text: String,
}

impl Filter {
    /// Compiles a program, or says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            |what: &dyn fmt::Debug| format!("this is no jq filter ({what:?}); see https://jqlang.org/manual");
        let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let funs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
        let arena = Arena::default();
        let file = File { code: text, path: () };
        let modules = Loader::new(defs).load(&arena, file).map_err(|errors| wrong(&first(&errors)))?;
        let program =
            Compiler::default().with_funs(funs).compile(modules).map_err(|errors| wrong(&first(&errors)))?;
        Ok(Self { program: Arc::new(program), text: text.to_owned() })
    }

    /// Whether the first output for this body is neither `false` nor `null`. No output is a no.
    ///
    /// # Errors
    /// The filter fails on this body.
    pub(crate) fn matches(&self, body: &[u8]) -> Result<bool, String> {
        if depth(body) > MAX_DEPTH {
            return Err(format!("the body is nested deeper than {MAX_DEPTH} levels"));
        }
        let input = read::parse_single(body).map_err(|error| error.to_string())?;
        let context = Ctx::<data::JustLut<Val>>::new(&self.program.lut, Vars::new([]));
        let mut outputs = self.program.id.run((context, input)).map(unwrap_valr);
        match outputs.next() {
            None => Ok(false),
            Some(Ok(output)) => Ok(!matches!(output, Val::Null | Val::Bool(false))),
            Some(Err(error)) => Err(error.to_string()),
        }
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.text).finish()
    }
}

fn first<T>(errors: &[T]) -> Option<&T> {
    errors.first()
}

/// How deep JSON is nested.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_filter_lets_pass() {
        let body = br#"{"type":"message-created","content":"hi bot","n":12345678901234567890}"#;
        for (filter, wanted) in [
            (".", true),
            (".type == \"message-created\"", true),
            (".content | test(\"bot\")", true),
            (".content | contains(\"you\")", false),
            (".missing", false),
            ("empty", false),
            ("select(.n > 3)", true),
            (".n == 12345678901234567890", true),
        ] {
            assert_eq!(Filter::parse(filter).unwrap().matches(body), Ok(wanted), "{filter}");
        }
        assert!(Filter::parse(".content | keys").unwrap().matches(body).is_err());
    }

    #[test]
    fn what_is_no_filter_is_said() {
        for bad in [".[", "nonsense(", "no_such_function"] {
            let error = Filter::parse(bad).unwrap_err();
            assert!(error.contains("this is no jq filter"), "{error}");
        }
    }

    #[test]
    fn a_hostile_body_fails_and_does_no_harm() {
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert!(Filter::parse(".").unwrap().matches(deep.as_bytes()).is_err());
        assert_eq!(depth(br#"{"a":"[[[\"[","b":[1]}"#), 2);
    }
}
