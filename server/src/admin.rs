//! `wwproxy-server app …`: the operator's commands.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use anyhow::{Context, bail};
use wwproxy_protocol::{AppId, Secret};
use wwproxy_server::{
    config::{AppCommand, Config, StoreAddress},
    control::{ControlError, Inspection, Operator, Stored},
    identity::{Apps, AppsError},
};

use crate::log::print_line;

/// A usage error, which has an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(String);

impl Usage {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

pub(crate) fn run(config: &Config, command: &AppCommand) -> anyhow::Result<()> {
    let apps = config.apps()?;
    match command {
        AppCommand::Add { id, keep_events } => add(config, &apps, id, *keep_events)?,
        AppCommand::List => {
            for (app, is_disabled) in apps.states()? {
                let state = if is_disabled { "\tdisabled" } else { "" };
                print_line(&format!("{app}{state}"))?;
            }
        }
        AppCommand::Rotate { id } => {
            with_printed_secret(id, |print| apps.rotate(id, print))?;
            close_connections(config);
        }
        AppCommand::Disable { id } => {
            let has_changed = apps.set_disabled(id, true)?;
            close_connections(config);
            if has_changed {
                eprintln!("The app {id} is disabled: its clients get 401, its senders 503.");
            } else {
                eprintln!("The app {id} was already disabled.");
            }
        }
        AppCommand::Enable { id } => {
            if apps.set_disabled(id, false)? {
                eprintln!("The app {id} is enabled: its clients and senders are accepted again.");
            } else {
                eprintln!("The app {id} was already enabled.");
            }
        }
        AppCommand::Remove { id, yes, force } => remove(config, &apps, id, *yes, *force)?,
    }
    Ok(())
}

fn add(config: &Config, apps: &Apps, app: &AppId, keep_events: bool) -> anyhow::Result<()> {
    if !keep_events && !apps.list()?.contains(app) {
        reject_reused_id(config, app)?;
    }
    with_printed_secret(app, |print| apps.add_with(app, print))
}

/// Rejects an id of which the store still has events: a new app must not receive those of an earlier one. If the store is
/// not reachable, for example from another machine than the server's, this is only a warning.
fn reject_reused_id(config: &Config, app: &AppId) -> anyhow::Result<()> {
    let Ok(StoreAddress::File(folder)) = config.store_address() else { return Ok(()) };
    match operator(&folder).inspect(app) {
        Ok(Inspection { stored, .. }) if !stored.is_nothing() => bail!(
            "the store in {} has {} of an earlier app {app}: `wwproxy-server app remove {app}` deletes it, \
             `app add {app} --keep-events` gives it to the new app",
            folder.display(),
            describe(&stored)
        ),
        Ok(_) | Err(ControlError::NoStore(_)) => {}
        Err(error) => {
            let error = anyhow::Error::from(error);
            eprintln!(
                "wwproxy-server: the store could not be checked for events of an earlier app {app}: {error:#}"
            );
        }
    }
    Ok(())
}

/// Removes an app. It is disabled first, so that no client registers it again meanwhile, and its entry is removed last, so
/// that the command can be repeated after a failure.
fn remove(config: &Config, apps: &Apps, app: &AppId, yes: bool, force: bool) -> anyhow::Result<()> {
    if !yes && !is_on_terminal() {
        return Err(Usage(format!(
            "`app remove {app}` deletes the app's registration and events for good: add --yes, as there is no terminal \
             to ask on"
        ))
        .into());
    }
    let store = config.store_address()?;
    let operator = match &store {
        StoreAddress::File(folder) => Some(operator(folder)),
        StoreAddress::Memory => None,
    };
    let listed = apps.list()?.contains(app);
    let inspection = operator.as_ref().map(|operator| operator.inspect(app)).transpose()?;
    let stored = inspection.map(|inspection| inspection.stored).unwrap_or_default();
    if !listed && stored.is_nothing() {
        return Err(AppsError::Missing(app.clone()).into());
    }
    // This may be the wrong store: the server's own may have events, which the next app with this id would receive.
    if !force && stored.is_nothing() && inspection.is_some_and(|inspection| !inspection.server_runs) {
        bail!(
            "{store} has no data of the app {app}, and no server runs on it: name the server's store with --store file:DIR, or \
             add --force if this is it"
        );
    }
    if !yes && !confirm(&format!("Remove the app {app} for good, with {} in {store}?", describe(&stored)))? {
        bail!("the app {app} was not removed");
    }
    if listed {
        apps.set_disabled(app, true)?;
    }
    let purged = operator.as_ref().map_or(Ok(Stored::default()), |operator| operator.purge(app));
    let purged = purged.with_context(|| format!("the app {app} is only disabled so far: run this again"))?;
    if listed {
        apps.remove(app)?;
    }
    match store {
        StoreAddress::File(_) => {
            eprintln!("The app {app} is removed, with {} in {store}.", describe(&purged));
        }
        StoreAddress::Memory => eprintln!(
            "The credentials of the app {app} are removed. A server with --store memory: cannot be reached: it has the \
             app's registration and events until it ends."
        ),
    }
    Ok(())
}

fn describe(stored: &Stored) -> String {
    let registration = if stored.registered { "its registration" } else { "no registration" };
    let plural = if stored.events == 1 { "" } else { "s" };
    format!("{registration} and {} event{plural} ({} bytes)", stored.events, stored.bytes)
}

/// Makes a running server close the connections of revoked tokens now. Otherwise a websocket is closed at its next
/// heartbeat.
fn close_connections(config: &Config) {
    let Ok(StoreAddress::File(folder)) = config.store_address() else { return };
    if let Err(error) = operator(&folder).recheck_tokens() {
        let error = anyhow::Error::from(error);
        eprintln!("wwproxy-server: open websockets of the app end within 20 s: {error:#}");
    }
}

/// The operator of the store in this folder. A wait for the server is reported on stderr.
pub(crate) fn operator(folder: &Path) -> Operator {
    Operator::new(folder, |folder| {
        let folder = folder.display();
        eprintln!(
            "wwproxy-server: waiting for the server of the store in {folder}, which is starting or stopping"
        );
    })
}

/// Makes a change that calls `print` with a new secret before it takes effect, and reports on stderr whether the secret is in force.
fn with_printed_secret(
    app: &AppId,
    change: impl FnOnce(&mut dyn FnMut(&Secret) -> io::Result<()>) -> Result<(), AppsError>,
) -> anyhow::Result<()> {
    let mut is_printed = false;
    let changed = change(&mut |secret| {
        print_secret(secret)?;
        is_printed = true;
        Ok(())
    });
    match changed {
        Ok(()) => {
            eprintln!("The secret of the app {app} is on stdout. It is in force, and not shown again.");
            Ok(())
        }
        Err(error) if is_printed => {
            Err(error).context("the secret on stdout is not in force: run this again for another one")
        }
        Err(error) => Err(error.into()),
    }
}

/// Prints a secret on stdout. Fails if the secret would be lost: stdout is closed, full, or `/dev/null`.
fn print_secret(secret: &Secret) -> io::Result<()> {
    if is_dev_null() {
        return Err(io::Error::other("stdout is closed or /dev/null"));
    }
    print_line(secret.expose())
}

/// Whether stdout is `/dev/null`, which the Rust runtime opens in place of a closed stdout.
#[cfg(unix)]
fn is_dev_null() -> bool {
    use rustix::fs::{fstat, stat};
    matches!((fstat(io::stdout()), stat("/dev/null")), (Ok(stdout), Ok(null)) if stdout.st_rdev == null.st_rdev)
}

#[cfg(not(unix))]
fn is_dev_null() -> bool {
    false
}

fn is_on_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

fn confirm(question: &str) -> io::Result<bool> {
    let mut stderr = io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
