//! Why a value cannot be read from a request.

/// The request does not give one clear value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookupError {
    #[error("header {0} is there more than once")]
    Repeated(String),
    #[error("the body is not JSON, repeats a name, or has no plain value at {0}")]
    Json(String),
    #[error("the list in {0} must have one element, as the signature covers only one")]
    Unsigned(String),
    #[error("the body is not a form with exactly the fields that are signed")]
    Form,
    #[error("query parameter {0} is there more than once")]
    RepeatedParameter(String),
    #[error("query parameter {0} is not percent-encoded correctly")]
    Parameter(String),
}
