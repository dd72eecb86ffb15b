//! `--filter`: a jq program that selects events.

mod json;
mod syntax;

use std::{fmt, panic, sync::Arc, thread, time::Duration};

use anyhow::anyhow;
use jaq_core::{
    Compiler, Ctx, Vars, data,
    load::{Arena, File, Loader},
};
use jaq_json::{Val, read};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};
use wwproxy_sdk::Bytes;

/// The deepest body that is filtered, as in jq.
const MAX_DEPTH: usize = 10_000;
/// The deepest body that is filtered on the caller's stack: jaq recurses as deep as its input.
const MAX_SHALLOW_DEPTH: usize = 256;
/// The stack size for deeper bodies, in bytes. Only used pages are allocated.
const DEEP_STACK_BYTES: usize = 256 << 20;
/// The longest time that the filter may take for one event. A filter that does not end cannot be stopped.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// How many threads may run the filter, those included that are past the time limit. Each of them uses a processor.
const MAX_THREADS: usize = 4;
/// How much of an error of the filter is shown, in characters: it may quote the body.
const MAX_ERROR_CHARS: usize = 200;

/// A jq program over the body of an event.
#[derive(Clone)]
pub(crate) struct Filter {
    program: Arc<jaq_core::Filter<data::JustLut<Val>>>,
    text: String,
    /// Limits the threads that run the program.
    threads: Arc<Semaphore>,
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
        let threads = Arc::new(Semaphore::new(MAX_THREADS));
        Ok(Self { program: Arc::new(program), text: text.to_owned(), threads })
    }

    /// Runs [`Self::matches`] in a thread of its own. A filter that exceeds its time limit fails on this body.
    ///
    /// # Errors
    /// Too many earlier runs have not ended yet.
    pub(crate) async fn evaluate(&self, body: &Bytes) -> anyhow::Result<Result<bool, String>> {
        self.evaluate_within(TIME_LIMIT, body).await
    }

    async fn evaluate_within(&self, limit: Duration, body: &Bytes) -> anyhow::Result<Result<bool, String>> {
        let thread = self.threads.clone().try_acquire_owned().map_err(|_| {
            anyhow!(
                "--filter does not end on {MAX_THREADS} events, and cannot be stopped; simplify the filter"
            )
        })?;
        let (filter, body) = (self.clone(), body.clone());
        let run = spawn_blocking(move || {
            let _thread = thread;
            filter.matches(&body)
        });
        Ok(match timeout(limit, run).await {
            Ok(Ok(matched)) => matched,
            Ok(Err(panicked)) => Err(panicked.to_string()),
            Err(_) => Err(format!("it takes longer than {} s", limit.as_secs_f32())),
        })
    }

    /// Whether the program has an output for this body, and the first output is neither `false` nor `null`.
    ///
    /// # Errors
    /// The filter fails on this body.
    fn matches(&self, body: &[u8]) -> Result<bool, String> {
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
            // The stack of the test's thread is as large as that of the threads that run filters.
            for body in [&nested(MAX_SHALLOW_DEPTH), &nested(300), &nested(MAX_DEPTH), &objects] {
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

    #[tokio::test]
    async fn a_filter_that_does_not_end_fails_and_too_many_of_them_are_an_error() {
        // It ends after far more than the limit, so that the test ends.
        let filter = Filter::parse("if . then last(range(3000000)) else true end").unwrap();
        let (slow, fast) = (Bytes::from("true"), Bytes::from("false"));
        let limit = Duration::from_millis(10);
        for _ in 1..MAX_THREADS {
            let failed = filter.evaluate_within(limit, &slow).await.unwrap();
            assert_eq!(failed, Err("it takes longer than 0.01 s".into()));
        }
        assert_eq!(filter.evaluate(&fast).await.unwrap(), Ok(true));
        assert!(filter.evaluate_within(limit, &slow).await.unwrap().is_err());
        let error = filter.evaluate(&fast).await.unwrap_err().to_string();
        assert!(error.contains("does not end on 4 events"), "{error}");
    }

    #[test]
    fn an_error_of_the_filter_is_shortened() {
        let body = format!("{{\"a\":\"{}\"}}", "x".repeat(10_000));
        let error = Filter::parse(".a.b").unwrap().matches(body.as_bytes()).unwrap_err();
        assert!(error.len() <= MAX_ERROR_CHARS, "{error}");
        assert!(Filter::parse("halt").unwrap().matches(b"{}").unwrap_err().contains("halt"));
    }
}
