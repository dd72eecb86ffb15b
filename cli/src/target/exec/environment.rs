//! The environment of a command: the variables of an event, without the secrets of the command line.

use std::{collections::HashMap, env, ffi::OsString, fmt::Write as _};

use tokio::process::Command;
use wwproxy_sdk::EventMessage;

use crate::target::verification;

/// The credentials of the command line, which are not inherited. Each also has a `_FILE` form.
const SECRETS: [&str; 3] = ["SECRET", "WWPROXY_TOKEN", "WEBHOOK_SECRET"];
const EVENT_ID: &str = "WWPROXY_EVENT_ID";
const EVENT_TYPE: &str = "WWPROXY_EVENT_TYPE";
const ATTEMPT: &str = "WWPROXY_ATTEMPT";
const SOURCE: &str = "WWPROXY_SOURCE";
const VERIFICATION: &str = "WWPROXY_VERIFICATION";
const DELIVERY_ID: &str = "WWPROXY_DELIVERY_ID";
const CONTENT_TYPE: &str = "WWPROXY_CONTENT_TYPE";
/// The path of the sender's request after the source's hook.
const TAIL: &str = "WWPROXY_TAIL";
const QUERY: &str = "WWPROXY_QUERY";
/// Set to 1 if a variable was omitted because it does not fit.
const TRUNCATED: &str = "WWPROXY_TRUNCATED";
/// All variables of an event except those of its headers.
const OWN: [&str; 10] =
    [EVENT_ID, EVENT_TYPE, ATTEMPT, SOURCE, VERIFICATION, DELIVERY_ID, CONTENT_TYPE, TAIL, QUERY, TRUNCATED];
/// The prefix prevents senders from setting variables with another meaning, such as `HTTP_PROXY`.
const HEADER_PREFIX: &str = "WWPROXY_HEADER_";
/// The longest `NAME=VALUE` in bytes, with the terminating NUL: `MAX_ARG_STRLEN` of Linux.
const MAX_VARIABLE_BYTES: usize = 128 * 1024;
/// All variables of an event together, in bytes: well under the 2 MiB that Linux usually gives arguments and environment.
pub(super) const MAX_EVENT_BYTES: usize = 512 * 1024;

/// Sets the variables of an event, as far as they fit into `max_bytes`. A value is never cut: half of a signature or of a type would
/// be another value.
pub(super) fn set(command: &mut Command, event: &EventMessage, attempt: u32, max_bytes: usize) {
    for name in inherited().filter(|name| is_withheld(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.env(EVENT_ID, event.id.as_str()).env(ATTEMPT, attempt.to_string());
    let (variables, complete) = fitting(event, max_bytes);
    command.envs(variables);
    if !complete {
        command.env(TRUNCATED, "1");
    }
}

fn inherited() -> impl Iterator<Item = OsString> {
    env::vars_os().map(|(name, _)| name)
}

/// Whether a variable is not inherited: a secret, or a variable of an event, which an outer command may have.
fn is_withheld(name: &str) -> bool {
    SECRETS.contains(&name.strip_suffix("_FILE").unwrap_or(name))
        || OWN.contains(&name)
        || name.starts_with(HEADER_PREFIX)
}

/// The variables of the metadata and of the headers that fit, and whether these are all.
fn fitting(event: &EventMessage, max_bytes: usize) -> (Vec<(String, String)>, bool) {
    let mut left = max_bytes;
    let mut complete = true;
    let variables = metadata(event).chain(headers(event)).filter(|(name, value)| {
        let bytes = name.len() + value.len() + 2;
        // A variable cannot contain NUL.
        let fits = bytes <= left.min(MAX_VARIABLE_BYTES) && !value.contains('\0');
        if fits {
            left -= bytes;
        }
        complete &= fits;
        fits
    });
    (variables.collect(), complete)
}

/// The variables of an event that are neither required nor headers. The short ones are first.
fn metadata(event: &EventMessage) -> impl Iterator<Item = (String, String)> {
    let source = event.details.has_origin.then(|| event.source().to_string());
    let variables = [
        (SOURCE, source),
        (VERIFICATION, verification(event).map(str::to_owned)),
        (EVENT_TYPE, event.event_type()),
        (DELIVERY_ID, event.delivery_id().map(str::to_owned)),
        (CONTENT_TYPE, event.content_type().map(str::to_owned)),
        (TAIL, event.tail().map(str::to_owned)),
        (QUERY, event.details.query.clone()),
    ];
    variables.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)))
}

/// A variable for each header line; the second line of one name ends in `_n2`, the third in `_n3`.
fn headers(event: &EventMessage) -> impl Iterator<Item = (String, String)> {
    let mut lines = HashMap::new();
    event.details.headers.iter().map(move |(header, value)| {
        let mut name = variable(header);
        let line = lines.entry(header.to_ascii_lowercase()).or_insert(0u32);
        *line += 1;
        if *line > 1 {
            // Writing to a string cannot fail, here and below.
            let _ = write!(name, "_n{line}");
        }
        (name, value.clone())
    })
}

/// The variable of a header: letters in upper case, digits as they are, `_` for `-`, and any other byte as `x` and two hex digits.
/// Lower case is used only for these escapes, so no two headers have the same variable.
fn variable(header: &str) -> String {
    let mut name = HEADER_PREFIX.to_owned();
    for byte in header.bytes() {
        match byte {
            b'-' => name.push('_'),
            _ if byte.is_ascii_alphanumeric() => name.push(byte.to_ascii_uppercase().into()),
            _ => {
                let _ = write!(name, "x{byte:02x}");
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(headers: &[(&str, &str)], kind: &str) -> EventMessage {
        let json = serde_json::json!({"id": "1", "attempt": 1, "headers": headers, "data": {"type": kind}});
        EventMessage::parse(&json.to_string()).unwrap()
    }

    #[test]
    fn no_two_headers_share_a_variable() {
        let event = event(&[("x-a", "1"), ("x_a", "2"), ("X-A", "3"), ("x-a-n2", "4"), ("xx5fa", "5")], "t");
        let names: Vec<_> = headers(&event).map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["X_A", "Xx5fA", "X_A_n2", "X_A_N2", "XX5FA"].map(|it| format!("{HEADER_PREFIX}{it}"))
        );
        assert_eq!(variable("proxy"), "WWPROXY_HEADER_PROXY");
        assert_eq!(variable("a=b é"), "WWPROXY_HEADER_Ax3dBx20xc3xa9");
    }

    #[test]
    fn the_metadata_of_an_event_has_its_variables() {
        let event = EventMessage::parse(
            r#"{"id":"1","attempt":1,"source":"repo","eventType":"push","deliveryId":"d","tail":"/a","query":"b=1",
            "verification":null,"headers":[["content-type","x/y"]],"encoding":"text","data":"a"}"#,
        );
        let variables: Vec<_> = metadata(&event.unwrap()).map(|(name, value)| name + "=" + &value).collect();
        let expected = [
            "WWPROXY_SOURCE=repo",
            "WWPROXY_VERIFICATION=none",
            "WWPROXY_EVENT_TYPE=push",
            "WWPROXY_DELIVERY_ID=d",
            "WWPROXY_CONTENT_TYPE=x/y",
            "WWPROXY_TAIL=/a",
            "WWPROXY_QUERY=b=1",
        ];
        assert_eq!(variables, expected);
        assert!(variables.iter().all(|variable| is_withheld(variable.split_once('=').unwrap().0)));
    }

    #[test]
    fn only_variables_that_do_not_fit_are_omitted() {
        let long = "v".repeat(MAX_VARIABLE_BYTES);
        let event = event(&[("a", &long), ("b", "2"), ("c", "\0"), ("d", "4")], &long);
        let (variables, complete) = fitting(&event, MAX_EVENT_BYTES);
        let names: Vec<_> = variables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, complete), (vec!["WWPROXY_HEADER_B", "WWPROXY_HEADER_D"], false));
        assert_eq!(fitting(&event, 0), (Vec::new(), false));
        assert!(fitting(&self::event(&[("a", "1")], "t"), MAX_EVENT_BYTES).1);
    }

    #[test]
    fn secrets_are_withheld_and_the_rest_is_inherited() {
        for name in ["SECRET", "SECRET_FILE", "WWPROXY_TOKEN_FILE", "WEBHOOK_SECRET", "WWPROXY_HEADER_HOST"] {
            assert!(is_withheld(name), "{name}");
        }
        for name in ["PATH", "WWPROXY_SERVER", "APPID", "MY_SECRET", "HTTPS_PROXY", "_FILE"] {
            assert!(!is_withheld(name), "{name}");
        }
    }
}
