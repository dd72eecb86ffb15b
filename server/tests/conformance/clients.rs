//! The clients of `examples/clients`, run against the built server.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
};

use tokio::{sync::mpsc, time::timeout};

use crate::common::{DEADLINE, Server, eventually};

/// A client that is killed when dropped.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_example_clients_lease_and_acknowledge_events() {
    let server = Server::start(&[]);
    for (program, file) in [("node", "lease.mjs"), ("python3", "lease.py")] {
        let app = server.app(program).await;
        app.post(r#"{"type":"first"}"#).await;
        let mut command = Command::new(program);
        command.arg(format!("{}/../examples/clients/{file}", env!("CARGO_MANIFEST_DIR")));
        command.env("WWPROXY_SERVER", server.url("")).env("APPID", &app.id).env("SECRET", &app.app_secret);
        let Ok(mut child) = command.stdout(Stdio::piped()).spawn() else {
            assert!(env::var_os("CI").is_none(), "{program} is missing");
            eprintln!("skipped: {program} is missing");
            continue;
        };
        let (send, mut lines) = mpsc::unbounded_channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let _client = Client(child);
        let mut next = async || timeout(DEADLINE, lines.recv()).await.unwrap().expect("the client runs");
        let line = next().await;
        assert!(line.ends_with(" first"), "{line}");
        app.post(r#"{"type":"second"}"#).await;
        let line = next().await;
        assert!(line.ends_with(" second"), "{line}");
        eventually("both events are acknowledged", async || app.gauge("stored").await == 0).await;
    }
}
