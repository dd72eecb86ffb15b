//! Which event goes to which target.

use std::{fmt, time::Duration};

use wwproxy_sdk::{EventMessage, HttpOptions};

use super::{address::Address, exec::Exec, forward::Forward, http::TargetHttp, outcome::TryOutcome};
use crate::{error::UsageError, selection::Glob};

/// What takes events.
pub(crate) enum Target {
    Forward(Box<Forward>),
    Exec(Exec),
}

impl Target {
    /// Offers an event once. `attempt` counts how often it may have been seen, this time included.
    pub(super) async fn try_once(&self, event: &EventMessage, attempt: u32, timeout: Duration) -> TryOutcome {
        match self {
            Self::Forward(forward) => forward.try_once(event, attempt, timeout).await,
            Self::Exec(exec) => exec.try_once(event, attempt, timeout).await,
        }
    }
}

/// Where events go.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Targets")]
pub(crate) struct Targets {
    /// Post events to this URL, byte for byte and with the sender's headers
    ///
    /// A port alone is on this machine (127.0.0.1, then `::1`), `HOST:PORT` and `HOST/PATH` are http, and `unix:/run/app.sock` or
    /// `unix:/run/app.sock:/PATH` is a Unix socket. The path and query of the original request go after a URL that ends in `/`
    #[arg(long, value_name = "URL", value_parser = Address::parse)]
    forward_to: Option<Address>,
    /// Run this command for each event, in the shell, with the body on stdin; exit 0 accepts the event
    ///
    /// The environment has `WWPROXY_EVENT_ID`, `WWPROXY_EVENT_TYPE`, `WWPROXY_ATTEMPT` and, for each header,
    /// `WWPROXY_HEADER_NAME` in capitals with `_` for `-` (other characters as `x` and two hex digits, so `x_a` is `Xx5fA`; a
    /// repeated header as `NAME_n2`, `NAME_n3`). Variables that do not fit are left out, and `WWPROXY_TRUNCATED=1` is set. The
    /// command does not inherit `SECRET`, `WWPROXY_TOKEN`, `WEBHOOK_SECRET` and their `_FILE` forms, but everything else, such
    /// as the proxies' variables. It is killed with all that it started when it takes too long, fails, or the command line ends
    #[arg(long, value_name = "CMD", conflicts_with = "forward_to")]
    exec: Option<String>,
    /// Post events of this type (globs as in --type) to this URL; the first route that fits counts, and what fits none goes to --forward-to
    /// or --exec, or counts as not matching. Repeatable
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
    /// Whether there is any: where events have been chosen by hand there must be.
    pub(crate) fn required(&self) -> Result<(), UsageError> {
        if self.forward_to.is_none() && self.exec.is_none() && self.routes.is_empty() {
            return Err(UsageError(
                "give where the events go: --forward-to URL, --route TYPE=URL or --exec CMD".into(),
            ));
        }
        Ok(())
    }

    /// Makes the targets; `server` is how connections to the server are made, `hook` the path that senders post to.
    pub(crate) fn open(&self, server: &HttpOptions, hook: Option<&str>) -> anyhow::Result<Routes> {
        self.http.warn();
        let forward = |address: &Address| {
            let forward = Forward::new(address.clone(), self.http, server, hook);
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
            (None, Some(command)) => f.write_str(command),
            (None, None) if self.routes.is_empty() => f.write_str("stdout"),
            (None, None) => f.write_str("no other target"),
        }
    }
}

/// The targets of the types, in the order in which they are asked.
pub(crate) struct Routes(Vec<(Glob, Target)>);

impl Routes {
    /// Whether there is no target at all, so that events are printed only.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every event has a target, or none is needed.
    pub(crate) fn is_for_all(&self) -> bool {
        self.is_empty() || self.0.iter().any(|(glob, _)| glob.is_all())
    }

    /// Which pattern may have a typo, if this type has no target; else nothing.
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
    fn the_first_route_that_fits_counts() {
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
