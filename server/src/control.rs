//! The operator's commands, through a Unix socket in the store's folder (the control socket).
//!
//! A connection carries one request and one answer, each a line of JSON:
//!
//! ```json
//! {"version":1,"command":"purge","app":"my-bot"}
//! {"version":1,"result":{"registered":true,"events":3,"bytes":674}}
//! {"version":1,"error":"the store failed: no space left on device"}
//! ```
//!
//! Access control is by user: the socket has mode 0600, and the server checks the user of the peer. Without a running
//! server the same commands open the store itself ([`Operator`]).

#[cfg(unix)]
mod address;
mod client;
#[cfg(unix)]
mod listener;

#[cfg(unix)]
use std::time::Duration;
use std::{error::Error, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wwproxy_protocol::AppId;

pub use self::client::{ControlError, Inspection, Operator};
#[cfg(unix)]
pub use self::listener::ControlListener;
use crate::proxy::Proxy;
pub use crate::proxy::Stored;

/// The version of the protocol. A server rejects any other.
#[cfg(unix)]
const VERSION: u32 = 1;
/// How long a server may take to execute a command.
#[cfg(unix)]
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a backup may take: 100 GB at some 30 MB a second.
#[cfg(unix)]
const BACKUP_TIMEOUT: Duration = Duration::from_secs(3600);
/// The file name of the socket in the store's folder.
#[cfg(unix)]
const SOCKET_NAME: &str = "control.sock";

/// A command of the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
enum Command {
    /// Returns what is stored of an app.
    Inspect { app: AppId },
    /// Ends the app's registration and deletes its events. Returns what was deleted.
    Purge { app: AppId },
    /// Checks the token of every open websocket and waiting lease again, since some may have been revoked.
    RecheckTokens,
    /// Writes a copy of the store to a new file, whose path is absolute.
    Backup { file: PathBuf },
}

#[cfg(unix)]
#[derive(Serialize, Deserialize)]
struct Request {
    version: u32,
    #[serde(flatten)]
    command: Command,
}

#[cfg(unix)]
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    version: u32,
    #[serde(flatten)]
    outcome: Outcome,
}

/// The result of a command, or its error message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Result(Value),
    Error(String),
}

impl Command {
    /// Executes the command.
    async fn execute(self, proxy: &Proxy) -> Outcome {
        let stored = match self {
            Self::Inspect { app } => proxy.inspect(&app).await.map(Some),
            Self::Purge { app } => proxy.purge(&app).await.map(Some),
            Self::RecheckTokens => {
                proxy.recheck_tokens();
                Ok(None)
            }
            Self::Backup { file } => proxy.backup(file).await.map(|()| None),
        };
        match stored {
            Ok(stored) => Outcome::Result(serde_json::to_value(stored).expect("numbers have a JSON form")),
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "a command of the operator failed");
                Outcome::Error(error)
            }
        }
    }

    /// How long a server may take to execute the command.
    #[cfg(unix)]
    fn timeout(&self) -> Duration {
        match self {
            Self::Backup { .. } => BACKUP_TIMEOUT,
            _ => ANSWER_TIMEOUT,
        }
    }
}

/// An error with its sources.
fn chain(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

/// Parses a request.
#[cfg(unix)]
fn parse(line: &[u8]) -> Result<Command, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let version: Version =
        serde_json::from_slice(line).map_err(|_| "a request is a JSON object with a version".to_owned())?;
    if version.version != VERSION {
        return Err(format!(
            "the server speaks version {VERSION} of the control protocol and not {}: use the wwproxy-server of its release",
            version.version
        ));
    }
    let request: Result<Request, _> = serde_json::from_slice(line);
    request
        .map(|request| request.command)
        .map_err(|error| format!("the server does not know this command ({error})"))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_request_round_trips_and_invalid_requests_are_rejected() {
        let app: AppId = "my-bot".parse().unwrap();
        for command in [
            Command::Inspect { app: app.clone() },
            Command::Purge { app },
            Command::RecheckTokens,
            Command::Backup { file: "/a b".into() },
        ] {
            let line = serde_json::to_vec(&Request { version: VERSION, command: command.clone() }).unwrap();
            assert_eq!(parse(&line), Ok(command));
        }
        for (line, error) in [
            (r#"{"version":2,"command":"purge","app":"a"}"#, "version"),
            (r#"{"command":"purge","app":"a"}"#, "version"),
            (r#"{"version":1,"command":"purge"}"#, "app"),
            (r#"{"version":1,"command":"purge","app":"a/b"}"#, "command"),
            (r#"{"version":1,"command":"explode"}"#, "explode"),
            ("[]", "JSON"),
            ("", "JSON"),
        ] {
            assert!(parse(line.as_bytes()).unwrap_err().contains(error), "{line}");
        }
    }

    #[test]
    fn an_answer_is_a_result_or_an_error() {
        for (outcome, line) in [
            (Outcome::Result(Value::Null), r#"{"version":1,"result":null}"#),
            (Outcome::Error("no".into()), r#"{"version":1,"error":"no"}"#),
        ] {
            let answer = Answer { version: VERSION, outcome: outcome.clone() };
            assert_eq!(serde_json::to_string(&answer).unwrap(), line);
            assert_eq!(serde_json::from_str::<Answer>(line).unwrap().outcome, outcome);
        }
    }
}
