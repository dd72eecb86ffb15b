//! `--filter`: a jq program that selects events.

mod json;
mod syntax;

use std::{fmt, panic, sync::Arc, thread};

use jaq_core::{
    Compiler, Ctx, Vars, data,
    load::{Arena, File, Loader},
};
use jaq_json::{Val, read};

/// The deepest body that is filtered, as in jq.
const MAX_DEPTH: usize = 10_000;
/// The deepest body that is filtered on the caller's stack: jaq recurses as deep as its input.
const MAX_SHALLOW_DEPTH: usize = 256;
/// The stack size for deeper bodies, in bytes. Only used pages are allocated.
const DEEP_STACK_BYTES: usize = 256 << 20;
/// How much of an error of the filter is shown, in characters: it may quote the body.
const MAX_ERROR_CHARS: usize = 200;

/// A jq program over the body of an event.
#[derive(Clone)]
pub(crate) struct Filter {
    program: Arc<jaq_core::Filter<data::JustLut<Val>>>,
    text: String,
}

impl Filter {
    /// Compiles a program.
    ///
    /// # Errors
    /// A message with the place of the first error and what was expected there.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("this is not a jq filter: {what}; see https://jqlang.org/manual");
        let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let funs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
        let arena = Arena::default();
        let file = File { code: text, path: () };
        let modules =
            Loader::new(defs).load(&arena, file).map_err(|errors| wrong(&syntax::loading(text, &errors)))?;
        let program = Compiler::default()
            .with_funs(funs)
            .compile(modules)
            .map_err(|errors| wrong(&syntax::compiling(text, &errors)))?;
        Ok(Self { program: Arc::new(program), text: text.to_owned() })
    }

    /// Whether the program has an output for this body, and the first output is neither `false` nor `null`.
    ///
    /// # Errors
    /// The filter fails on this body.
    pub(crate) fn matches(&self, body: &[u8]) -> Result<bool, String> {
        let (json, depth) = json::prepare(body);
        if depth > MAX_DEPTH {
            return Err(format!("the body is nested deeper than {MAX_DEPTH} levels"));
        }
        if depth <= MAX_SHALLOW_DEPTH {
            return self.run(&json);
        }
        thread::scope(|scope| {
            let run = thread::Builder::new()
                .stack_size(DEEP_STACK_BYTES)
                .spawn_scoped(scope, || self.run(&json))
                .map_err(|error| format!("cannot start a thread for a body of {depth} levels ({error})"))?;
            run.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
        })
    }

    fn run(&self, json: &[u8]) -> Result<bool, String> {
        let input = read::parse_single(json).map_err(|error| format!("the body is not JSON ({error})"))?;
        let context = Ctx::<data::JustLut<Val>>::new(&self.program.lut, Vars::new([]));
        let output = self.program.id.run((context, input)).next();
        match output {
            None => Ok(false),
            Some(Ok(output)) => Ok(!matches!(output, Val::Null | Val::Bool(false))),
            Some(Err(exception)) => Err(match exception.get_err() {
                Ok(error) => error.to_string().chars().take(MAX_ERROR_CHARS).collect(),
                Err(_) => "it stops without an output (halt)".into(),
            }),
        }
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.text).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_selects_by_its_first_output() {
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
    fn a_compile_error_names_the_place_and_what_was_expected() {
        for (bad, says) in [
            (".[", "`[` at character 2 is never closed"),
            ("(.a", "`(` at character 1 is never closed"),
            (
                ".a | no_such_function(1)",
                "there is no filter `no_such_function` with 1 arguments, at character 6",
            ),
            (".a and $b", "there is no variable `$b`, at character 8"),
            (".type = = 1", "at character 9, expected: "),
            ("if .a", "at its end, expected: then"),
            ("", "at its end, expected: term"),
            ("\"é\" & .b", "at character 5, expected: token, found: `& .b`"),
            ("\"\\q\"", "expected: string escape sequence"),
            ("import \"x\" as x; .", "modules"),
        ] {
            let error = Filter::parse(bad).unwrap_err();
            assert!(error.starts_with("this is not a jq filter: ") && error.contains(says), "{bad}: {error}");
            assert!(!error.contains("Expect") && !error.contains("File"), "{error}");
        }
    }

    #[test]
    fn json_that_jq_accepts_is_accepted() {
        let digits = "9".repeat(1_000_000);
        for (body, filter) in [
            (r#"{"n":1e999,"m":-1E+400}"#, ".n > 1 and .m < 0"),
            (r#"{"a":1,"a":2}"#, ".a == 2"),
            (r#"{"a":"x\ud800y","\udfff":1}"#, ".a == \"x\\ufffdy\" and length == 2"),
            (r#"{"":0,"\u0000":"\u0000"}"#, ".[\"\"] == 0"),
            (&format!("{{\"n\":{digits}}}"), ".n > 1e300"),
            ("  {\"a\" : [ ] }\r\n", ".a == []"),
        ] {
            assert_eq!(Filter::parse(filter).unwrap().matches(body.as_bytes()), Ok(true), "{filter}");
        }
    }

    #[test]
    fn a_deep_body_is_filtered_up_to_the_limit_of_jq() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let objects = format!("{}0{}", "{\"a\":".repeat(MAX_DEPTH), "}".repeat(MAX_DEPTH));
        for filter in ["length == 1", "walk(.) == .", "tojson | length > 1"] {
            for body in [&nested(300), &nested(MAX_DEPTH), &objects] {
                assert_eq!(Filter::parse(filter).unwrap().matches(body.as_bytes()), Ok(true), "{filter}");
            }
        }
        // The recursion that needs most of the stack.
        let filter = Filter::parse("last(..) == []").unwrap();
        assert_eq!(filter.matches(nested(MAX_DEPTH).as_bytes()), Ok(true));
        let filter = Filter::parse(".").unwrap();
        assert!(filter.matches(nested(MAX_DEPTH + 1).as_bytes()).unwrap_err().contains("deeper"));
        assert!(filter.matches(nested(1_000_000).as_bytes()).is_err());
    }

    #[test]
    fn an_error_of_the_filter_is_shortened() {
        let body = format!("{{\"a\":\"{}\"}}", "x".repeat(10_000));
        let error = Filter::parse(".a.b").unwrap().matches(body.as_bytes()).unwrap_err();
        assert!(error.len() <= MAX_ERROR_CHARS, "{error}");
        assert!(Filter::parse("halt").unwrap().matches(b"{}").unwrap_err().contains("halt"));
    }
}
