//! Examples of wwproxy; see the `[[example]]` entries of this crate.
