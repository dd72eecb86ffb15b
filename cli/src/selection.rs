//! Selects events by type and by jq filter.

use std::fmt;

use wildmatch::WildMatch;
use wwproxy_sdk::EventMessage;

use crate::filter::Filter;

/// How much of a type is compared with patterns to find typos, in characters: it bounds the time.
const MAX_COMPARED_CHARS: usize = 200;
/// One typo is tolerated per this number of characters of a pattern.
const CHARS_PER_TYPO: usize = 5;

/// The types of Watson Work's webhooks.
pub(crate) const WATSON_WORK_TYPES: [&str; 11] = [
    "message-created",
    "message-edited",
    "message-deleted",
    "message-annotation-added",
    "message-annotation-removed",
    "reaction-added",
    "reaction-removed",
    "space-members-added",
    "space-members-removed",
    "space-updated",
    "space-deleted",
];

/// The conditions that an event must meet to be handled.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct Selection {
    /// Take only events of this type (the `type` in the body); `*` matches any text, `?` any character. Repeatable
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<Glob>,
    /// Take only events for which the first output of this jq filter, run on the body, is neither missing, `false` nor `null`
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
    /// The filter failed, with this error.
    FilterFailed(String),
}

impl Selection {
    /// Whether every event is selected.
    pub(crate) fn is_all(&self) -> bool {
        self.types.is_empty() && self.filter.is_none()
    }

    /// The reason why an event of this type is not selected, with the pattern that may have a typo.
    pub(crate) fn explain_mismatch(&self, kind: &str) -> String {
        if self.types.is_empty() || self.types.iter().any(|glob| glob.matches(kind)) {
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
        if !self.types.is_empty() {
            let kind = event.event_type().unwrap_or_default();
            if !self.types.iter().any(|glob| glob.matches(&kind)) {
                return Ok(Selected::No);
            }
        }
        let Some(filter) = &self.filter else { return Ok(Selected::Yes) };
        Ok(match filter.evaluate(&event.body).await? {
            Ok(true) => Selected::Yes,
            Ok(false) => Selected::No,
            Err(why) => Selected::FilterFailed(why),
        })
    }
}

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
        if self.is_near(kind) {
            return Some(format!(" (`{}` is near it; a typo?)", self.text));
        }
        let known = WATSON_WORK_TYPES.into_iter().find(|known| self.is_near(known));
        known
            .filter(|_| !WATSON_WORK_TYPES.iter().any(|known| self.matches(known)))
            .map(|known| format!(" (`{}` is near the known type `{known}`; a typo?)", self.text))
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
    fn the_known_types_are_those_of_the_samples() {
        let scheme = wwproxy_sdk::scheme::Scheme::preset("watsonwork").unwrap();
        assert_eq!(scheme.sample_types(), WATSON_WORK_TYPES);
    }

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
    async fn type_and_filter_must_both_match() {
        let selection = |types: &[&str], filter: Option<&str>| Selection {
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
