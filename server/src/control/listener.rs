//! The server's end of the control socket.

use std::{
    fs, io,
    os::unix::{fs::MetadataExt, net::UnixListener as StdListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{fs::Mode, process::umask};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Answer, Outcome, SOCKET_NAME, VERSION, address::with_address, parse};
use crate::proxy::Proxy;

/// The longest request, in bytes.
const MAX_REQUEST: u64 = 4 << 10;
/// The most connections at once; further ones wait.
const MAX_CONNECTIONS: usize = 8;
/// How long it may take to read a request, and to write an answer.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The control socket of a store. Dropping it removes the socket.
#[derive(Debug)]
pub struct ControlListener {
    listener: UnixListener,
    path: PathBuf,
    /// The user of the server.
    user: u32,
}

impl ControlListener {
    /// Binds the socket in the folder of a store that this process has open. An existing socket was left by a killed server,
    /// and is replaced.
    pub fn bind(folder: &Path) -> io::Result<Self> {
        let path = folder.join(SOCKET_NAME);
        // Unlinking and binding do not follow a symbolic link.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // With the umask the socket has mode 0600 from the start. The umask is the whole process's, but no other thread creates
        // files now.
        let before = umask(Mode::from_raw_mode(0o177));
        let bound = with_address(folder, SOCKET_NAME, |path| StdListener::bind(path));
        umask(before);
        let listener = bound?;
        listener.set_nonblocking(true)?;
        let user = fs::symlink_metadata(&path)?.uid();
        Ok(Self { listener: UnixListener::from_std(listener)?, path, user })
    }

    /// Answers requests until shutdown, each in a task of the tracker.
    pub(crate) async fn serve(self, proxy: Arc<Proxy>, shutdown: CancellationToken, tasks: TaskTracker) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let next = async {
                let permit =
                    Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
                (permit, self.listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                next = next => next,
                () = shutdown.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) if self.is_operator(&stream) => {
                    let proxy = Arc::clone(&proxy);
                    tasks.spawn(async move {
                        if let Err(error) = answer(stream, &proxy).await {
                            tracing::debug!(%error, "a control connection broke");
                        }
                        drop(permit);
                    });
                }
                Ok(_) => tracing::warn!("a control connection of another user was rejected"),
                Err(error) => {
                    tracing::warn!(%error, "a control connection was not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Whether the peer is the user of the server, or root.
    fn is_operator(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| peer.uid() == self.user || peer.uid() == 0)
    }
}

impl Drop for ControlListener {
    /// Runs before the store is closed, so that it does not remove the socket of the next server.
    fn drop(&mut self) {
        // If this fails, the next start replaces the socket.
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(stream: UnixStream, proxy: &Proxy) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(MAX_REQUEST));
    timeout(TRANSFER_TIMEOUT, read.read_until(b'\n', &mut line)).await??;
    let outcome = if line.ends_with(b"\n") {
        match parse(&line) {
            Ok(command) => timeout(command.timeout(), command.execute(proxy))
                .await
                .unwrap_or_else(|_| Outcome::Error("the server's store did not answer in time".into())),
            Err(error) => Outcome::Error(error),
        }
    } else {
        Outcome::Error(format!("a request is one line of at most {MAX_REQUEST} bytes"))
    };
    let mut answer =
        serde_json::to_vec(&Answer { version: VERSION, outcome }).expect("texts have a JSON form");
    answer.push(b'\n');
    timeout(TRANSFER_TIMEOUT, write.write_all(&answer)).await?
}
