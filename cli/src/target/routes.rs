//! Routes events to targets by type.

use std::{fmt, time::Duration};

use wwproxy_sdk::{AppId, EventMessage, HttpOptions};

use super::{address::Address, exec::Exec, forward::Forward, http::TargetHttp, outcome::TryOutcome};
use crate::{error::UsageError, selection::Glob};

/// A target of events.
pub(crate) enum Target {
    Forward(Box<Forward>),
    Exec(Exec),
}

impl Target {
    /// Hands an event to the target once. `attempt` is how often the target may have received it, this time included.
    pub(super) async fn try_once(&self, event: &EventMessage, attempt: u32, timeout: Duration) -> TryOutcome {
        match self {
            Self::Forward(forward) => forward.try_once(event, attempt, timeout).await,
            Self::Exec(exec) => exec.try_once(event, attempt, timeout).await,
        }
    }
}

/// The flags for targets.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Targets")]
pub(crate) struct Targets {
    /// Post events to this URL, byte for byte and with the sender's headers
    ///
    /// A port alone is on this machine (127.0.0.1, then `::1`), `HOST:PORT` and `HOST/PATH` are http, and `unix:/run/app.sock` or
    /// `unix:/run/app.sock:/PATH` is a Unix socket. The query of the original request and its path after the source's hook are appended; to
    /// a URL that ends in `/`, its whole path. A path with `..` is not, nor are
    /// parameters that the URL has itself
    #[arg(long, value_name = "URL", value_parser = Address::parse)]
    forward_to: Option<Address>,
    /// Run this command for each event, in the shell, with the body on stdin; exit 0 accepts the event
    ///
    /// The environment has `WWPROXY_EVENT_ID`, `WWPROXY_ATTEMPT`, `WWPROXY_EVENT_TYPE`, `WWPROXY_SOURCE`, `WWPROXY_VERIFICATION`,
    /// `WWPROXY_DELIVERY_ID`, `WWPROXY_CONTENT_TYPE`, `WWPROXY_TAIL`, `WWPROXY_QUERY` and, for each header, `WWPROXY_HEADER_NAME` in capitals with `_` for `-` (other characters as `x` and two hex digits, so `x_a` is `Xx5fA`; a
    /// repeated header as `NAME_n2`, `NAME_n3`). Variables that do not fit are omitted, and `WWPROXY_TRUNCATED=1` is set. The
    /// command inherits all variables except `SECRET`, `WWPROXY_TOKEN`, `WEBHOOK_SECRET` and their `_FILE` forms. The command and
    /// all processes that it started are killed if it fails, exceeds --timeout, or wwproxy ends, except for those that start a session
    /// of their own
    #[arg(long, value_name = "CMD", conflicts_with = "forward_to")]
    exec: Option<String>,
    /// Post events of this type (wildcards as in --type) to this URL. The first route that matches is used; events without a route go to
    /// --forward-to or --exec, otherwise they do not match. Repeatable
    #[arg(long = "route", value_name = "TYPE=URL", value_parser = Route::parse)]
    routes: Vec<Route>,
    #[command(flatten)]
    http: TargetHttp,
}

#[derive(Debug, Clone)]
struct Route {
    kind: Glob,
    address: Address,
}

impl Route {
    fn parse(text: &str) -> Result<Self, String> {
        let (kind, url) = text.split_once('=').ok_or("give TYPE=URL, such as 'message-*=3000'")?;
        Ok(Self { kind: kind.into(), address: Address::parse(url)? })
    }
}

impl Targets {
    /// Fails if there is no target.
    pub(crate) fn required(&self) -> Result<(), UsageError> {
        if self.forward_to.is_none() && self.exec.is_none() && self.routes.is_empty() {
            return Err(UsageError("give a target: --forward-to URL, --route TYPE=URL or --exec CMD".into()));
        }
        Ok(())
    }

    /// Creates the targets from the HTTP options for the server and the app, whose hook's path may be appended.
    pub(crate) fn open(&self, server: &HttpOptions, app: Option<&AppId>) -> anyhow::Result<Routes> {
        self.http.warn();
        let forward = |address: &Address| {
            let forward = Forward::new(address.clone(), self.http, server, app);
            forward.map(|forward| Target::Forward(Box::new(forward)))
        };
        let mut routes = Vec::with_capacity(self.routes.len() + 1);
        for Route { kind, address } in &self.routes {
            routes.push((kind.clone(), forward(address)?));
        }
        let rest = match (&self.forward_to, &self.exec) {
            (Some(address), _) => Some(forward(address)?),
            (None, Some(command)) => Some(Target::Exec(Exec::new(command.clone()))),
            (None, None) => None,
        };
        routes.extend(rest.map(|target| (Glob::from("*"), target)));
        Ok(Routes(routes))
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Route { kind, address } in &self.routes {
            write!(f, "{address} ({kind}), ")?;
        }
        match (&self.forward_to, &self.exec) {
            (Some(address), _) => address.fmt(f),
            (None, Some(command)) => write!(f, "the command `{command}`"),
            (None, None) if self.routes.is_empty() => f.write_str("stdout"),
            (None, None) => f.write_str("no other target"),
        }
    }
}

/// The targets with their type patterns. The first match is used.
pub(crate) struct Routes(Vec<(Glob, Target)>);

impl Routes {
    /// Whether there is no target, so that events are only printed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every event has a target, or there is none at all.
    pub(crate) fn is_for_all(&self) -> bool {
        self.is_empty() || self.0.iter().any(|(glob, _)| glob.is_all())
    }

    /// The hint at a pattern that may have a typo; otherwise empty.
    pub(crate) fn hint(&self, kind: &str) -> String {
        self.0.iter().find_map(|(glob, _)| glob.hint(kind)).unwrap_or_default()
    }

    pub(crate) fn target(&self, event: &EventMessage) -> Option<&Target> {
        let kind = event.event_type().unwrap_or_default();
        self.0.iter().find(|(glob, _)| glob.matches(&kind)).map(|(_, target)| target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_route_is_used() {
        let targets = Targets {
            forward_to: None,
            exec: Some("rest".into()),
            routes: ["message-*=1", "*=2/"].map(|route| Route::parse(route).unwrap()).into(),
            http: TargetHttp::default(),
        };
        assert!(Route::parse("3000").is_err() && Route::parse("a=ftp://h").is_err());
        let routes = targets.open(&HttpOptions::new(), None).unwrap();
        let event =
            |kind| EventMessage::parse(&format!(r#"{{"id":"1","data":{{"type":"{kind}"}}}}"#)).unwrap();
        let at = |kind| {
            let target = routes.target(&event(kind)).unwrap();
            routes.0.iter().position(|(_, other)| std::ptr::eq(target, other))
        };
        assert_eq!(at("message-created"), Some(0));
        assert_eq!(at("space-deleted"), Some(1));
    }
}
