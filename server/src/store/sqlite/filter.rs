//! The filter of a consumer: which event types and sources it receives.

use wwproxy_protocol::{ConsumerSettings, SourceName};

use super::app_log::Entry;

/// Decides whether a consumer receives an event.
#[derive(Debug)]
pub(super) struct Filter {
    types: Vec<String>,
    sources: Vec<SourceName>,
}

impl Filter {
    pub(super) fn new(settings: &ConsumerSettings) -> Self {
        Self {
            types: settings.types.iter().cloned().collect(),
            sources: settings.sources.iter().cloned().collect(),
        }
    }

    /// Whether it lets every event pass.
    pub(super) fn is_empty(&self) -> bool {
        self.types.is_empty() && self.sources.is_empty()
    }

    pub(super) fn matches(&self, entry: &Entry) -> bool {
        let event_type = entry.event_type.as_deref();
        (self.sources.is_empty() || self.sources.contains(&entry.source))
            && (self.types.is_empty()
                || event_type.is_some_and(|text| self.types.iter().any(|glob| matches(glob, text))))
    }
}

/// Whether a text matches a glob, whose `*` stands for any characters. Linear in the text for each `*`, never exponential.
fn matches(glob: &str, text: &str) -> bool {
    let Some((first, rest)) = glob.split_once('*') else { return glob == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_any_characters_in_place_of_its_stars() {
        for (glob, text, expected) in [
            ("push", "push", true),
            ("push", "pushed", false),
            ("issues.*", "issues.opened", true),
            ("issues.*", "issues.", true),
            ("issues.*", "issue_comment.created", false),
            ("*.created", "issue_comment.created", true),
            ("*", "", true),
            ("a*a", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("**x**", "--x-", true),
            ("*ab", "aab", true),
        ] {
            assert_eq!(matches(glob, text), expected, "{glob} {text}");
        }
    }
}
