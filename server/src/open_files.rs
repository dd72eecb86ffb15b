//! The limit of open files (`RLIMIT_NOFILE`), which bounds the number of connections.

/// File descriptors reserved for everything but connections: the store's files, the runtime, the listener, requests to the
/// platform. At most half of the limit is reserved.
const RESERVED: u64 = 128;

/// The log line if the limit has no room for all connections.
const LOWERED: &str = "--max-connections was lowered to the hard limit of open files less the reserved ones: for more \
                       connections raise the hard limit (`ulimit -Hn`, LimitNOFILE= in systemd)";

/// Raises the soft limit of open files to the hard limit, and returns how many connections it allows: at most
/// `max_connections`. Logs both.
#[must_use]
pub fn fit_connections(max_connections: usize) -> usize {
    let Some(open_files) = raise_limit() else {
        tracing::info!(max_connections, "there is no limit of open files");
        return max_connections;
    };
    let fitting = connections(open_files, max_connections);
    if fitting < max_connections {
        let (reserved, wanted, max_connections) = (reserved(open_files), max_connections, fitting);
        // A slightly lower number needs no action.
        if fitting < wanted.div_ceil(2) {
            tracing::warn!(open_files, reserved, wanted, max_connections, "{LOWERED}");
        } else {
            tracing::info!(open_files, reserved, wanted, max_connections, "{LOWERED}");
        }
    } else {
        tracing::info!(open_files, max_connections, "the limit of open files has room for all connections");
    }
    fitting
}

/// How many of these files are not for connections.
fn reserved(open_files: u64) -> u64 {
    RESERVED.min(open_files / 2)
}

fn connections(open_files: u64, wanted: usize) -> usize {
    let room = open_files - reserved(open_files);
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1)
}

/// Returns the limit now in force; `None` if the system has none.
#[cfg(unix)]
fn raise_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            // Some systems report a hard limit that they do not grant.
            tracing::warn!(%error, ?current, ?maximum, "the limit of open files could not be raised");
            current
        }
    }
}

#[cfg(not(unix))]
fn raise_limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_other_files() {
        assert_eq!(connections(1 << 20, 20_000), 20_000);
        assert_eq!(connections(20_128, 20_000), 20_000);
        assert_eq!(connections(20_000, 20_000), 19_872);
        assert_eq!(connections(1024, 20_000), 896);
        assert_eq!(connections(100, 20_000), 50);
        assert_eq!(connections(0, 20_000), 1);
    }
}
