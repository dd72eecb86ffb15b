//! Which events are wanted.

use wwproxy_sdk::EventMessage;

use crate::filter::Filter;

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

/// What an event must be to be taken.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct Selection {
    /// Take events of this type only, by the `type` of their body; `*` and `?` stand for any text and any character. Repeatable
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<Glob>,
    /// Take only events for whose body this jq filter gives something else than `false`, `null` or nothing
    #[arg(long, value_name = "JQ", value_parser = Filter::parse)]
    filter: Option<Filter>,
}

/// Whether an event is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Yes,
    No,
    /// Nobody knows: the filter fails on it.
    Unclear(String),
}

impl Selection {
    pub(crate) fn wants(&self, event: &EventMessage) -> Wanted {
        if !self.types.is_empty() {
            let kind = event.event_type().unwrap_or_default();
            if !self.types.iter().any(|glob| glob.matches(&kind)) {
                return Wanted::No;
            }
        }
        match self.filter.as_ref().map(|filter| filter.matches(&event.body)) {
            None | Some(Ok(true)) => Wanted::Yes,
            Some(Ok(false)) => Wanted::No,
            Some(Err(why)) => Wanted::Unclear(why),
        }
    }
}

/// A text in which `*` stands for any text and `?` for any character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(String);

impl From<&str> for Glob {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Glob {
    pub(crate) fn matches(&self, text: &str) -> bool {
        let (pattern, text): (Vec<_>, Vec<_>) = (self.0.chars().collect(), text.chars().collect());
        let (mut p, mut t) = (0, 0);
        // Where to go on when what follows the last star does not fit: one character later.
        let mut retry = None;
        while t < text.len() {
            match pattern.get(p) {
                Some('*') => {
                    retry = Some((p + 1, t));
                    p += 1;
                }
                Some(&c) if c == '?' || c == text[t] => (p, t) = (p + 1, t + 1),
                _ => match retry {
                    Some((after_star, from)) => {
                        retry = Some((after_star, from + 1));
                        (p, t) = (after_star, from + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
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
    fn type_and_filter_must_both_fit() {
        let selection = |types: &[&str], filter: Option<&str>| Selection {
            types: types.iter().copied().map(Glob::from).collect(),
            filter: filter.map(|filter| Filter::parse(filter).unwrap()),
        };
        let event = EventMessage::parse(r#"{"id":"1","data":{"type":"a","n":1}}"#).unwrap();
        assert_eq!(selection(&[], None).wants(&event), Wanted::Yes);
        assert_eq!(selection(&["b", "a"], Some(".n == 1")).wants(&event), Wanted::Yes);
        assert_eq!(selection(&["b"], Some(".n == 1")).wants(&event), Wanted::No);
        assert_eq!(selection(&["a"], Some(".n == 2")).wants(&event), Wanted::No);
        assert!(matches!(selection(&["a"], Some(".n.x")).wants(&event), Wanted::Unclear(_)));
        let untyped = EventMessage::parse(r#"{"id":"1","data":[]}"#).unwrap();
        assert_eq!(selection(&["?*"], None).wants(&untyped), Wanted::No);
    }
}
