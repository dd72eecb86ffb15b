//! Selects events by type and by jq filter.

use std::{borrow::Cow, collections::BTreeSet, fmt, mem, sync::LazyLock};

use wildmatch::WildMatch;
use wwproxy_sdk::{EventMessage, SourceName, Status, scheme};

use crate::{error::UsageError, filter::Filter, scheme::nearest};

/// How much of a type is compared with patterns to find typos, in characters: it bounds the time.
const MAX_COMPARED_CHARS: usize = 200;
/// One typo is tolerated per this number of characters of a pattern.
const CHARS_PER_TYPO: usize = 5;

/// The conditions that an event must meet to be handled.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct Selection {
    /// Take only events of this type, as the sender's scheme gives it, such as `issues.opened`; `*` matches any text, `?` any
    /// character. Repeatable
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<Glob>,
    /// Take only events of this source; wildcards as in --type. Repeatable
    #[arg(long = "source", value_name = "NAME")]
    sources: Vec<Glob>,
    /// Take only events for which the first output of this jq filter, run on the body, is neither missing, `false` nor `null`. A
    /// body that is not JSON is a string if it is text, otherwise `{"encoding":"base64","data":"…"}`
    #[arg(long, value_name = "JQ", value_parser = Filter::parse)]
    filter: Option<Filter>,
    /// If the filter fails on an event: `deliver` it as if it matched, `leave` it on the server (it is redelivered later), or `drop`
    /// (skip) it. `tail` shows it only with `deliver`
    #[arg(long, value_enum, value_name = "WHAT", default_value = "deliver")]
    pub(crate) on_filter_error: OnFilterError,
}

/// What to do with an event on which the filter fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnFilterError {
    Deliver,
    Leave,
    Drop,
}

/// Whether an event is selected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Selected {
    Yes,
    No,
    /// The event is of another source.
    OtherSource,
    /// The filter failed, with this error.
    FilterFailed(String),
}

impl Selection {
    /// Whether every event of the sources is selected.
    pub(crate) fn is_all(&self) -> bool {
        self.types.is_empty() && self.filter.is_none()
    }

    /// Whether events of every source are selected.
    pub(crate) fn is_any_source(&self) -> bool {
        self.sources.is_empty()
    }

    /// Whether events of this source may be selected.
    pub(crate) fn selects_source(&self, name: &str) -> bool {
        selects(&self.sources, name)
    }

    /// Takes the types and sources out of the selection, for the filter of a consumer on the server.
    ///
    /// # Errors
    /// A pattern that the server does not have.
    pub(crate) fn take_consumer_filter(
        &mut self,
    ) -> Result<(BTreeSet<String>, BTreeSet<SourceName>), UsageError> {
        let (types, sources) = (mem::take(&mut self.types), mem::take(&mut self.sources));
        if let Some(glob) = types.iter().find(|glob| glob.text.contains('?')) {
            return Err(UsageError(format!(
                "--type '{glob}': the filter of a consumer has only the wildcard *"
            )));
        }
        let names = sources.iter().map(|glob| {
            glob.text.parse().map_err(|_| {
                UsageError(format!(
                    "--source '{glob}': the filter of a consumer has names of sources, without wildcards"
                ))
            })
        });
        Ok((types.into_iter().map(|glob| glob.text).collect(), names.collect::<Result<_, _>>()?))
    }

    /// Checks that each `--source` matches one of the app's sources. An app that is not registered has none, and a server of version
    /// 0.1 does not list them: then nothing is checked.
    ///
    /// # Errors
    /// A message for the user, with the names that there are.
    pub(crate) fn check_sources(&self, status: &Status) -> Result<(), UsageError> {
        let Some(sources) = status.sources.as_ref().filter(|_| status.is_registered()) else { return Ok(()) };
        let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
        let unknown = self.sources.iter().find(|glob| !names.iter().any(|name| glob.matches(name)));
        let Some(unknown) = unknown else { return Ok(()) };
        let near = nearest(&unknown.text, names.iter().copied());
        let near = near.map(|near| format!("did you mean '{near}'? ")).unwrap_or_default();
        Err(UsageError(format!(
            "no source of the app matches --source '{unknown}'; {near}its sources are {}",
            names.join(", ")
        )))
    }

    /// The reason why an event of this source and type is not selected, with the pattern that may have a typo.
    pub(crate) fn explain_mismatch(&self, source: &str, kind: &str) -> String {
        if !self.selects_source(source) {
            let near = self.sources.iter().find_map(|glob| glob.hint_at(source)).unwrap_or_default();
            return format!("no --source matches {source}{near}");
        }
        if selects(&self.types, kind) {
            return "--filter does not select it".into();
        }
        let hint = self.types.iter().find_map(|glob| glob.hint(kind)).unwrap_or_default();
        format!("no --type matches{hint}")
    }

    /// Whether an event is selected.
    ///
    /// # Errors
    /// The filter does not end.
    pub(crate) async fn select(&self, event: &EventMessage) -> anyhow::Result<Selected> {
        let kind = || event.event_type().unwrap_or_default();
        if !self.selects_source(event.source().as_str()) {
            return Ok(Selected::OtherSource);
        }
        if !self.types.is_empty() && !selects(&self.types, &kind()) {
            return Ok(Selected::No);
        }
        let Some(filter) = &self.filter else { return Ok(Selected::Yes) };
        let input = match event.json_value() {
            Cow::Borrowed(json) => event.body.slice_ref(json.as_bytes()),
            Cow::Owned(json) => json.into(),
        };
        Ok(match filter.evaluate(&input).await? {
            Ok(true) => Selected::Yes,
            Ok(false) => Selected::No,
            Err(why) => Selected::FilterFailed(why),
        })
    }
}

/// Whether there are no patterns, or one of them matches.
fn selects(patterns: &[Glob], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|glob| glob.matches(text))
}

/// The types of the most used senders, to find typos in patterns.
static KNOWN_TYPES: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| scheme::presets().flat_map(|preset| preset.scheme.sample_types()).collect());

/// A pattern in which `*` matches any text and `?` any character.
#[derive(Debug, Clone)]
pub(crate) struct Glob {
    pattern: WildMatch,
    /// The pattern as it was given: `WildMatch` merges repeated stars.
    text: String,
}

impl From<&str> for Glob {
    fn from(text: &str) -> Self {
        Self { pattern: WildMatch::new(text), text: text.to_owned() }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Glob {
    /// Whether every text matches.
    pub(crate) fn is_all(&self) -> bool {
        self.text == "*"
    }

    /// Names the type that a pattern with a typo probably means: the event's type or, if the pattern matches no known type, a known
    /// one.
    pub(crate) fn hint(&self, kind: &str) -> Option<String> {
        self.hint_at(kind).or_else(|| {
            let known = KNOWN_TYPES.iter().find(|known| self.is_near(known))?;
            let is_known = KNOWN_TYPES.iter().any(|known| self.matches(known));
            (!is_known).then(|| format!(" (`{}` is near the known type `{known}`; a typo?)", self.text))
        })
    }

    /// Hints at a pattern that differs from this text by typos only.
    fn hint_at(&self, text: &str) -> Option<String> {
        self.is_near(text).then(|| format!(" (`{}` is near it; a typo?)", self.text))
    }

    /// Whether the pattern differs from a text by typos only. A pattern that ends in `*` is compared with the start of the text.
    fn is_near(&self, text: &str) -> bool {
        let pattern = self.text.trim_end_matches('*').to_lowercase();
        let chars = pattern.chars().count();
        let text: Vec<char> = text.to_lowercase().chars().take(MAX_COMPARED_CHARS).collect();
        let lengths = if self.text.ends_with('*') {
            chars.saturating_sub(1)..=chars + 1
        } else {
            text.len()..=text.len()
        };
        let typos = (chars / CHARS_PER_TYPO).max(1);
        chars > typos
            && lengths.into_iter().any(|length| {
                let start: String = text.iter().take(length).collect();
                strsim::osa_distance(&pattern, &start) <= typos
            })
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        self.pattern.matches(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_any_text_or_one_character() {
        for (glob, text, fits) in [
            ("message-created", "message-created", true),
            ("message-created", "message-created2", false),
            ("message-*", "message-edited", true),
            ("message-*", "space-updated", false),
            ("*-created", "message-created", true),
            ("*a*b*", "xaxxbx", true),
            ("*ab", "aab", true),
            ("m?ssage", "message", true),
            ("?", "", false),
            ("*", "", true),
            ("", "", true),
            ("a*", "b", false),
        ] {
            assert_eq!(Glob::from(glob).matches(text), fits, "{glob} {text}");
        }
    }

    #[test]
    fn a_typo_in_a_pattern_is_recognised() {
        let (near, known) = (" is near it; a typo?)", " is near the known type `message-created`; a typo?)");
        for (glob, kind, hint) in [
            ("mesage-created", "message-created", Some(near)),
            ("mesage-*", "message-created", Some(near)),
            ("Message-Created", "message-created", Some(near)),
            ("issue.opened", "issues.opened", Some(near)),
            ("mesage-created", "space-deleted", Some(known)),
            ("space-updated", "message-created", None),
            ("invoice.payed", "push", Some(" is near the known type `invoice.paid`; a typo?)")),
            ("issues.*", "push", None),
            ("message-*", "space-deleted", None),
            ("push", "message-created", None),
            ("*", "x", None),
            ("a", "b", None),
            ("", "x", None),
        ] {
            let expected = hint.map(|hint| format!(" (`{glob}`{hint}"));
            assert_eq!(Glob::from(glob).hint(kind), expected, "{glob} {kind}");
        }
    }

    #[tokio::test]
    async fn the_source_and_the_type_of_the_scheme_select_events() {
        let globs = |texts: &[&str]| texts.iter().copied().map(Glob::from).collect();
        let selection = |sources: &[&str], types: &[&str]| Selection {
            types: globs(types),
            sources: globs(sources),
            filter: None,
            on_filter_error: OnFilterError::Deliver,
        };
        let event = EventMessage::parse(
            r#"{"id":"1","source":"repo","eventType":"issues.opened","data":{"type":"a"}}"#,
        );
        let event = event.unwrap();
        for (sources, types, selected) in [
            (&["repo"][..], &[][..], Selected::Yes),
            (&["shop", "r*"], &["issues.*"], Selected::Yes),
            (&["shop"], &["issues.*"], Selected::OtherSource),
            (&[], &["a"], Selected::No),
        ] {
            assert_eq!(
                selection(sources, types).select(&event).await.unwrap(),
                selected,
                "{sources:?} {types:?}"
            );
        }
        let why = selection(&["rep0"], &[]).explain_mismatch("repo", "issues.opened");
        assert_eq!(why, "no --source matches repo (`rep0` is near it; a typo?)");
        let why = selection(&["repo"], &["push"]).explain_mismatch("repo", "issues.opened");
        assert_eq!(why, "no --type matches");
        assert!(selection(&["repo"], &[]).is_all() && !selection(&["repo"], &[]).is_any_source());
    }

    #[tokio::test]
    async fn a_filter_reads_a_body_that_is_not_json_as_a_string_or_as_base64() {
        for (body, filter) in [
            (r#""encoding":"text","data":"a=1&b=2""#, r#"test("b=2")"#),
            (r#""encoding":"base64","data":"//4=""#, r#".encoding == "base64" and .data == "//4=""#),
            (r#""encoding":"base64","data":"77u/eyJhIjoxfQ==""#, ".a == 1"),
            (r#""encoding":"text","data":"""#, r#". == """#),
        ] {
            let selection = Selection {
                types: Vec::new(),
                sources: Vec::new(),
                filter: Some(Filter::parse(filter).unwrap()),
                on_filter_error: OnFilterError::Drop,
            };
            let event = EventMessage::parse(&format!(r#"{{"id":"1",{body}}}"#)).unwrap();
            assert_eq!(selection.select(&event).await.unwrap(), Selected::Yes, "{body}");
        }
    }

    #[tokio::test]
    async fn type_and_filter_must_both_match() {
        let selection = |types: &[&str], filter: Option<&str>| Selection {
            sources: Vec::new(),
            types: types.iter().copied().map(Glob::from).collect(),
            filter: filter.map(|filter| Filter::parse(filter).unwrap()),
            on_filter_error: OnFilterError::Deliver,
        };
        let event = EventMessage::parse(r#"{"id":"1","data":{"type":"a","n":1}}"#).unwrap();
        assert_eq!(selection(&[], None).select(&event).await.unwrap(), Selected::Yes);
        assert_eq!(selection(&["b", "a"], Some(".n == 1")).select(&event).await.unwrap(), Selected::Yes);
        assert_eq!(selection(&["b"], Some(".n == 1")).select(&event).await.unwrap(), Selected::No);
        assert_eq!(selection(&["a"], Some(".n == 2")).select(&event).await.unwrap(), Selected::No);
        assert!(matches!(
            selection(&["a"], Some(".n.x")).select(&event).await.unwrap(),
            Selected::FilterFailed(_)
        ));
        let untyped = EventMessage::parse(r#"{"id":"1","data":[]}"#).unwrap();
        assert_eq!(selection(&["?*"], None).select(&untyped).await.unwrap(), Selected::No);
    }
}
