//! Process groups, and a watchdog process that kills them if this process dies.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, Write},
    process::{ChildStdin, ExitStatus, Stdio},
};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// Reads lines of process groups. At the end of stdin, when the command line has ended (by SIGKILL too), it kills the groups of the
/// last line. It ignores signals of the terminal.
const WATCHDOG: &str = "trap '' HUP INT TERM; while read -r line; do groups=$line; done; \
                        for group in $groups; do kill -s KILL -- \"-$group\"; done";

/// The groups of this process. Global, as the signal handler needs them.
static GROUPS: Mutex<Groups> = Mutex::new(Groups { running: BTreeSet::new(), watchdog: None });

struct Groups {
    running: BTreeSet<i32>,
    watchdog: Option<ChildStdin>,
}

/// A command in its own process group. On drop the whole group is killed, unless the command succeeded.
pub(crate) struct Group {
    pub(crate) child: Child,
    id: Pid,
    succeeded: bool,
}

impl Group {
    /// Starts the command. If this process is killed before the watchdog has the group, some microseconds, the command is not killed.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut groups = groups();
        groups.watch()?;
        // Ctrl-C is sent to the foreground group only, so the command can finish within the grace period.
        let child = command.process_group(0).spawn()?;
        let id = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let id = id.expect("a child that was not waited for has an id");
        groups.running.insert(id.as_raw_nonzero().get());
        let reported = groups.report();
        // Dropping the group after an error takes the lock again.
        drop(groups);
        let group = Self { child, id, succeeded: false };
        reported.map(|()| group)
    }

    /// Waits until the command ends.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.succeeded = status.success();
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.succeeded {
            // Fails if the group has ended.
            let _ = kill_process_group(self.id, Signal::KILL);
        }
        let mut groups = groups();
        groups.running.remove(&self.id.as_raw_nonzero().get());
        // A watchdog that has ended is restarted with the next command.
        let _ = groups.report();
    }
}

/// Kills all running commands, before an exit without destructors.
pub(crate) fn kill_all() {
    for id in std::mem::take(&mut groups().running).into_iter().filter_map(Pid::from_raw) {
        // Fails if the group has ended.
        let _ = kill_process_group(id, Signal::KILL);
    }
}

fn groups() -> MutexGuard<'static, Groups> {
    GROUPS.lock()
}

impl Groups {
    /// Starts the watchdog if it is not running.
    fn watch(&mut self) -> io::Result<()> {
        if self.watchdog.is_none() || self.report().is_err() {
            let mut watchdog = std::process::Command::new("/bin/sh");
            std::os::unix::process::CommandExt::process_group(&mut watchdog, 0);
            // It inherits no pipe, which would delay the end of file for its reader, and no secret.
            watchdog.args(["-c", WATCHDOG]).env_clear().current_dir("/");
            let child = watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            self.watchdog = child.stdin;
        }
        Ok(())
    }

    /// Writes the running groups to the watchdog, as one line.
    fn report(&mut self) -> io::Result<()> {
        let Some(watchdog) = &mut self.watchdog else { return Ok(()) };
        let mut line = String::new();
        for id in &self.running {
            // Writing to a string cannot fail.
            let _ = write!(line, "{id} ");
        }
        line.push('\n');
        watchdog.write_all(line.as_bytes())
    }
}
