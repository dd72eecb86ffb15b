//! Runs `nginx` and `haproxy` as processes, with their examples of `docs/reverse-proxy.md`.

use std::{
    env, fs,
    io::{self, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::common::DEADLINE;

pub(crate) const GUIDE: &str = include_str!("../../../docs/reverse-proxy.md");
// Certificates for 127.0.0.1, made by sdk/tests/tls/make.
pub(crate) const AUTHORITY: &str = include_str!("../../../sdk/tests/tls/authority.pem");
const CERTIFICATE: &str = include_str!("../../../sdk/tests/tls/server.pem");
const KEY: &str = include_str!("../../../sdk/tests/tls/server-key.pem");

/// The example of this program in the guide.
pub(crate) fn example(program: &str) -> String {
    let (_, rest) = GUIDE.split_once(&format!("\n```{program}\n")).expect("the guide has an example");
    rest.split_once("```").unwrap().0.to_owned()
}

/// Replaces text that must be there.
pub(crate) fn replace(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in:\n{text}");
    text.replace(from, to)
}

/// A running reverse proxy, killed when dropped.
pub(crate) struct ReverseProxy {
    child: Child,
    /// Its public URL.
    pub(crate) url: String,
    folder: TempDir,
}

impl ReverseProxy {
    /// Starts `nginx` in one unprivileged process. Returns `None` if it is not installed.
    pub(crate) fn nginx(example: &str, server: &str, port: u16) -> Option<Self> {
        let program = find("nginx")?;
        Some(Self::start(&program, &["-e", "stderr", "-c", "config", "-p", "."], port, |folder| {
            let example = replace(example, "listen 443 ssl", &format!("listen 127.0.0.1:{port} ssl"));
            let example = replace(&example, "127.0.0.1:8080", server);
            let example =
                replace(&example, "/etc/ssl/wwproxy/fullchain.pem", &write(folder, "cert", CERTIFICATE));
            let example = replace(&example, "/etc/ssl/wwproxy/privkey.pem", &write(folder, "key", KEY));
            let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let temporary = temporary.map(|kind| format!("{kind}_temp_path {kind};\n")).concat();
            format!(
                "daemon off;\nmaster_process off;\npid pid;\nevents {{}}\n\
                 http {{\naccess_log off;\n{temporary}{example}}}\n"
            )
        }))
    }

    /// Starts `haproxy` in the foreground. Returns `None` if it is not installed.
    pub(crate) fn haproxy(example: &str, server: &str, port: u16) -> Option<Self> {
        let program = find("haproxy")?;
        Some(Self::start(&program, &["-db", "-f", "config"], port, |folder| {
            let example = replace(example, "bind :443", &format!("bind 127.0.0.1:{port}"));
            let example = replace(&example, "127.0.0.1:8080", server);
            let both = write(folder, "both", &format!("{CERTIFICATE}{KEY}"));
            let example = replace(&example, "/etc/haproxy/wwproxy.pem", &both);
            format!("global\n    maxconn 100\n{example}")
        }))
    }

    /// Starts a program in a temporary folder, and waits until it accepts connections.
    fn start(program: &Path, arguments: &[&str], port: u16, config: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "config", &config(folder.path()));
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let mut started = Self { child, url: url(port), folder };
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.child.try_wait().unwrap().is_none(), "the proxy exited: {}", started.log());
            assert!(Instant::now() < deadline, "the proxy does not listen: {}", started.log());
            thread::sleep(Duration::from_millis(10));
        }
        started
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for ReverseProxy {
    fn drop(&mut self) {
        // The results are ignored: the proxy may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the reverse proxy's log\n{}---", self.log());
        }
    }
}

/// A free port. These programs cannot listen on port 0 and report the port.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The public URL of a reverse proxy that listens on this port.
pub(crate) fn url(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

/// Writes a file and returns its path.
fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.into_os_string().into_string().unwrap()
}

/// The path of an installed program. With `CI=true` a missing program fails the test.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Daemons are often outside of the PATH of ordinary users.
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|program| program.is_file());
    if found.is_none() {
        assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "{name} is not installed");
        // Written directly, because the test harness hides the output of `eprintln!` in passing tests.
        io::stderr().write_all(format!("skipped: {name} is not installed\n").as_bytes()).unwrap();
    }
    found
}
