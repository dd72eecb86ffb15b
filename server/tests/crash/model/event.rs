//! The events of the model.

use wwproxy_protocol::api::LeasedEvent;

/// The body of an event: its number, and a size that depends on the number; some are large.
pub(super) fn body(n: u32) -> String {
    let size = if n.is_multiple_of(97) { 100_000 } else { n.wrapping_mul(2_654_435_761) % 3000 };
    format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(size as usize))
}

/// Whether the sender gives the event an index, so that a repetition is found.
pub(super) fn has_index(n: u32) -> bool {
    !n.is_multiple_of(4)
}

pub(super) fn number(event: &LeasedEvent) -> u32 {
    let text = std::str::from_utf8(&event.body).unwrap();
    let n = text.strip_prefix("{\"n\":").and_then(|rest| rest.split_once(',')).unwrap().0.parse().unwrap();
    assert!(text == body(n), "{n}: the body was changed");
    n
}
