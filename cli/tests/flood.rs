//! Memory of the command is bounded if a server floods pings and reads slowly or not at all.

#[path = "../../sdk/tests/common/mod.rs"]
mod common;

use std::{
    env, fs,
    process::Stdio,
    time::{Duration, Instant},
};

use common::{FakeServer, Reply, platform};
use futures_util::SinkExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;

/// The duration of the flood in seconds, unless `WWPROXY_FLOOD_SECONDS` is set.
const FLOOD_SECONDS: u64 = 2;
/// Half of the peak with an unbounded write buffer.
const MAX_RESIDENT_KIB: u64 = 40 * 1024;
/// How often a slow server reads.
const READ_INTERVAL: Duration = Duration::from_millis(10);

/// The peak resident memory of a command during the flood, in KiB.
async fn flooded(command: &str, read_bytes_per_second: usize) -> u64 {
    let mut fake = FakeServer::start(|request, own| {
        platform(request, own, 3600, || 1).unwrap_or(Reply::Upgrade(Some("wwproxy.v2")))
    })
    .await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_wwproxy"))
        .arg(command)
        .env_clear()
        .envs([
            ("WWPROXY_SERVER", &*fake.url),
            ("APPID", "bot"),
            ("SECRET", "s"),
            ("WWPROXY_CONFIG_DIR", "/none"),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut socket = fake.socket().await;
    let hello = r#"{"type":"hello","appId":"bot","window":64,"leaseMs":60000,"pingMs":20000,"idleMs":60000,"tap":true}"#;
    socket.send(Message::text(hello)).await.unwrap();
    let (mut reader, mut writer) = socket.get_mut().split();
    let seconds = env::var("WWPROXY_FLOOD_SECONDS").map_or(FLOOD_SECONDS, |seconds| seconds.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let pings = [&[0x89, 125][..], &[7; 125]].concat().repeat(500);
    let mut sent = 0;
    let flood = async {
        while Instant::now() < end
            && let Ok(Ok(())) = timeout(end - Instant::now(), writer.write_all(&pings)).await
        {
            sent += pings.len();
        }
    };
    let read = async {
        let mut buffer = vec![0; read_bytes_per_second / 100];
        while Instant::now() < end {
            if !buffer.is_empty() {
                // A connection that ends early stops the flood, too.
                let _ = timeout(READ_INTERVAL, reader.read(&mut buffer)).await;
            }
            sleep(READ_INTERVAL).await;
        }
    };
    tokio::join!(flood, read);
    assert!(child.try_wait().unwrap().is_none(), "the command still runs");
    let status = fs::read_to_string(format!("/proc/{}/status", child.id().unwrap())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!(
        "{command}, {read_bytes_per_second} bytes/s read: {sent} bytes of pings sent, {peak} KiB at most"
    );
    peak
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_flood_of_pings_does_not_fill_the_memory() {
    for command in ["listen", "tail"] {
        for read_bytes_per_second in [0, 300_000] {
            let peak = flooded(command, read_bytes_per_second).await;
            assert!(peak < MAX_RESIDENT_KIB, "{command}, {read_bytes_per_second} bytes/s read: {peak} KiB");
        }
    }
}
