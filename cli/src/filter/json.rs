//! Rewrites JSON for the parser of jaq, so that it accepts all JSON that jq accepts.

use std::borrow::Cow;

/// The longest integer that is not rewritten, in characters. jaq parses integers exactly, in quadratic time; jq reads long ones as
/// floating-point numbers.
const MAX_INTEGER_CHARS: usize = 1000;

/// Returns the JSON for the parser, and its nesting depth.
///
/// As jq does, a lone surrogate (`\ud800`) is read as U+FFFD. A very long integer becomes a decimal of the same value.
pub(super) fn prepare(json: &[u8]) -> (Cow<'_, [u8]>, usize) {
    let mut output = Output { json, replaced: Vec::new(), copied: 0 };
    let (mut at, mut depth, mut deepest) = (0, 0usize, 0);
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => at = read_string(&mut output, at),
            b'-' | b'0'..=b'9' => at = read_number(&mut output, at - 1),
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    (output.end(), deepest)
}

/// The rewritten JSON. Nothing is copied before the first replacement.
struct Output<'a> {
    json: &'a [u8],
    replaced: Vec<u8>,
    /// How many bytes of `json` have been copied to `replaced`.
    copied: usize,
}

impl<'a> Output<'a> {
    fn replace(&mut self, start: usize, end: usize, by: &[u8]) {
        self.replaced.extend_from_slice(&self.json[self.copied..start]);
        self.replaced.extend_from_slice(by);
        self.copied = end;
    }

    fn end(mut self) -> Cow<'a, [u8]> {
        if self.copied == 0 {
            return Cow::Borrowed(self.json);
        }
        self.replaced.extend_from_slice(&self.json[self.copied..]);
        Cow::Owned(self.replaced)
    }
}

/// Reads a string from after its opening quote. Returns the position after the closing one.
fn read_string(output: &mut Output<'_>, mut at: usize) -> usize {
    while let Some(byte) = output.json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => {
                let (length, lone) = escape(&output.json[at..]);
                if lone {
                    output.replace(at, at + length, b"\\ufffd");
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    at
}

/// The length of an escape sequence, and whether it is a lone surrogate.
fn escape(text: &[u8]) -> (usize, bool) {
    match unit(text) {
        Some(0xd800..=0xdbff) if matches!(unit(&text[6..]), Some(0xdc00..=0xdfff)) => (12, false),
        Some(0xd800..=0xdfff) => (6, true),
        Some(_) => (6, false),
        None => (2, false),
    }
}

/// The UTF-16 unit of a `\uXXXX`.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Reads a number. Returns the position after it.
fn read_number(output: &mut Output<'_>, start: usize) -> usize {
    let rest = &output.json[start..];
    let length =
        rest.iter().take_while(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')).count();
    let end = start + length;
    if length > MAX_INTEGER_CHARS && !rest[..length].iter().any(|b| matches!(b, b'.' | b'e' | b'E')) {
        output.replace(end, end, b"e0");
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lone_surrogates_and_long_integers_are_replaced() {
        let long = "7".repeat(MAX_INTEGER_CHARS + 1);
        for (json, expected) in [
            (r#"["\ud800"]"#, r#"["\ufffd"]"#.to_owned()),
            (r#"["\udc00x\uD800\u0041"]"#, r#"["\ufffdx\ufffd\u0041"]"#.into()),
            (r#"["\ud83d\ude00","\\ud800","\"\u00e9"]"#, r#"["\ud83d\ude00","\\ud800","\"\u00e9"]"#.into()),
            (&format!("[{long},-{long}]"), format!("[{long}e0,-{long}e0]")),
            (&format!("[{long}.0,1e{long},\"{long}\"]"), format!("[{long}.0,1e{long},\"{long}\"]")),
            (r#"["\u12"#, r#"["\u12"#.into()),
            (r#"["\ud800\"#, r#"["\ufffd\"#.into()),
        ] {
            let (prepared, _) = prepare(json.as_bytes());
            assert_eq!(std::str::from_utf8(&prepared).unwrap(), expected);
        }
    }

    #[test]
    fn depth_counts_objects_and_arrays() {
        assert_eq!(prepare(br#"{"a":"[[[\"[","b":[1]}"#).1, 2);
        assert_eq!(prepare(b"1").1, 0);
    }
}
