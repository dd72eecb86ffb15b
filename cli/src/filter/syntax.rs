//! Error messages for invalid jq programs: the place, and what was expected there.

use jaq_core::{
    compile::{self, Undefined},
    load::{self, lex, parse},
};

/// How much of a program is quoted, in characters.
const MAX_QUOTED_CHARS: usize = 20;

/// Describes the first error of loading `program`.
pub(super) fn loading<P>(program: &str, errors: &load::Errors<&str, P>) -> String {
    match errors.first().map(|(_, error)| error) {
        Some(load::Error::Lex(errors)) => {
            errors.first().map_or_else(String::new, |(expected, found)| match expected {
                lex::Expect::Delim(open) => format!("`{open}` {} is never closed", place(program, open)),
                expected => unexpected(program, found, expected.as_str()),
            })
        }
        Some(load::Error::Parse(errors)) => errors.first().map_or_else(String::new, |(expected, found)| {
            let expected = match expected {
                parse::Expect::Nothing => "the end of the filter",
                expected => expected.as_str(),
            };
            unexpected(program, found, expected)
        }),
        Some(load::Error::Io(_)) => "it cannot include or import modules".into(),
        None => String::new(),
    }
}

/// Describes the first error of compiling `program`.
pub(super) fn compiling<P>(program: &str, errors: &compile::Errors<&str, P>) -> String {
    let error = errors.first().and_then(|(_, errors)| errors.first());
    error.map_or_else(String::new, |(name, undefined)| {
        let (kind, place) = (undefined.as_str(), place(program, name));
        match undefined {
            Undefined::Filter(arguments) => {
                format!("there is no {kind} `{name}` with {arguments} arguments, {place}")
            }
            _ => format!("there is no {kind} `{name}`, {place}"),
        }
    })
}

fn unexpected(program: &str, found: &str, expected: &str) -> String {
    let place = place(program, found);
    if found.is_empty() {
        return format!("{place}, expected: {expected}");
    }
    let found: String = found.chars().take(MAX_QUOTED_CHARS).collect();
    format!("{place}, expected: {expected}, found: `{found}`")
}

/// Describes the place of a part of the program.
fn place(program: &str, part: &str) -> String {
    // jaq returns slices of the program; a slice of another text has no place in it.
    let offset = (part.as_ptr() as usize).wrapping_sub(program.as_ptr() as usize);
    let Some(before) = program.get(..offset) else { return "somewhere".into() };
    if part.is_empty() { "at its end".into() } else { format!("at character {}", before.chars().count() + 1) }
}
