//! What `Debug` shows of values that may be secret.

/// The names of headers or of parameters, for `Debug`: the values may be secret.
pub(crate) fn names<N: AsRef<str>, V>(pairs: &[(N, V)]) -> Vec<&str> {
    pairs.iter().map(|(name, _)| name.as_ref()).collect()
}
