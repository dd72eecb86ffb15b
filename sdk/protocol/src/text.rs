//! Makes untrusted text safe to show in terminals and logs.

/// Whether a terminal or a log viewer may interpret this character instead of showing it: control characters, line and
/// paragraph separators, and bidirectional controls (Unicode property `Bidi_Control`).
///
/// ```
/// use wwproxy_protocol::text::is_unsafe_to_show;
///
/// assert!(is_unsafe_to_show('\u{1b}') && is_unsafe_to_show('\u{202e}') && is_unsafe_to_show('\u{2028}'));
/// assert!(!is_unsafe_to_show('é') && !is_unsafe_to_show(' '));
/// ```
#[must_use]
pub fn is_unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Replaces each [unsafe](is_unsafe_to_show) character by a space, so that the text can neither forge log lines nor control a
/// terminal.
///
/// ```
/// assert_eq!(wwproxy_protocol::text::sanitize("a\x1b[2Jb\nc"), "a [2Jb c");
/// ```
#[must_use]
pub fn sanitize(text: &str) -> String {
    text.chars().map(|c| if is_unsafe_to_show(c) { ' ' } else { c }).collect()
}

/// Cuts a text to at most this many bytes, between two characters.
///
/// ```
/// assert_eq!(wwproxy_protocol::text::truncate("aé", 2), "a");
/// ```
#[must_use]
pub fn truncate(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}
