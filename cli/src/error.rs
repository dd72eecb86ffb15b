//! Errors that decide the exit code.

use std::fmt;

use reqwest::StatusCode;
use wwproxy_sdk::{Client, Error, ErrorKind};

/// The command line or its input cannot be used.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// The app is not registered, so the server rejects its webhooks.
#[derive(Debug)]
pub(crate) struct NotRegistered(String);

impl NotRegistered {
    pub(crate) fn new(client: &Client) -> Self {
        let server = client.server().trim_end_matches('/');
        Self(format!(
            "{} is not registered on {server}, so its webhooks are refused; register it with \
             `wwproxy register --webhook-secret-file FILE`",
            client.app_id()
        ))
    }
}

impl fmt::Display for NotRegistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotRegistered {}

/// A webhook of `send` that was not accepted.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// `None`: there was no response.
    pub(crate) status: Option<StatusCode>,
    pub(crate) message: String,
}

impl Refusal {
    fn exit_code(&self) -> u8 {
        match self.status {
            Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => 3,
            Some(StatusCode::NOT_FOUND) => 4,
            Some(StatusCode::SERVICE_UNAVAILABLE) | None => 5,
            Some(_) => 1,
        }
    }

    /// Whether the next webhook would be refused as well.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self.exit_code(), 3 | 4) || self.status.is_none()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// The exit code of an error, as `wwproxy --help` documents it.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<UsageError>().is_some() {
        return 2;
    }
    if error.downcast_ref::<NotRegistered>().is_some() {
        return 4;
    }
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.exit_code();
    }
    let error = error.downcast_ref::<Error>();
    // Also a path that the server does not know.
    if error.and_then(Error::status) == Some(404) {
        return 4;
    }
    match error.map(Error::kind) {
        Some(ErrorKind::Usage) => 2,
        Some(ErrorKind::Refused) => 3,
        Some(
            ErrorKind::Unreachable | ErrorKind::Untrusted | ErrorKind::Unavailable | ErrorKind::Disconnected,
        ) => 5,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn context_keeps_the_exit_code() {
        let refused: anyhow::Result<()> = Err(UsageError("x".into()).into());
        assert_eq!(exit_code(&refused.context("more").unwrap_err()), 2);
        let bad_address = Client::builder("x").app_id("bot").token("t").build().context("more");
        assert_eq!(exit_code(&bad_address.unwrap_err()), 2);
        assert_eq!(exit_code(&anyhow::anyhow!("disk full")), 1);
    }
}
