//! Certificates and proxies of the connection to the server.

#[path = "../../sdk/tests/common/mod.rs"]
mod common;
#[path = "../../sdk/tests/tls/mod.rs"]
mod tls;

use std::{path::Path, process::Output, time::Duration};

use common::{FakeServer, Reply};
use tls::{EXPIRED, SELF_SIGNED, SERVER, proxy, tls};
use tokio::{process::Command, time::timeout};

const STATUS: &str =
    r#"{"registration":null,"stored":1,"leased":0,"dropped":0,"storedBytes":9,"oldestAgeMs":5,"clients":0}"#;
/// The deadline of a command that must not retry.
const DEADLINE: Duration = Duration::from_secs(30);

async fn run(server: &str, args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wwproxy"));
    command.args(args).env_clear().kill_on_drop(true);
    command.envs([
        ("WWPROXY_SERVER", server),
        ("APPID", "bot"),
        ("WWPROXY_TOKEN", "t"),
        ("WWPROXY_CONFIG_DIR", "/none"),
    ]);
    let output = command.envs(environment.iter().copied()).output();
    timeout(DEADLINE, output).await.expect("the command ends by itself").unwrap()
}

fn messages(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn pem(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/tests/tls").join(name).display().to_string()
}

#[tokio::test]
async fn an_untrusted_certificate_ends_listen() {
    let fake = FakeServer::start(|_, _| Reply::json(200, STATUS)).await;
    for (certificate, given, says) in [
        (SERVER, "self-signed.pem", "its certificate is not trusted"),
        (EXPIRED, "expired.pem", "its certificate expired"),
    ] {
        let server = format!("https://{}", tls(&fake, certificate).await);
        for command in ["listen", "tail", "status"] {
            let output = run(&server, &[command, "--ca-cert", &pem(given)], &[]).await;
            let stderr = messages(&output);
            assert_eq!(output.status.code(), Some(5), "{stderr}");
            assert!(stderr.contains(says) && !stderr.contains("retrying"), "{stderr}");
        }
        assert!(run(&server, &["status", "--insecure"], &[]).await.status.success());
    }
    assert!(fake.requests().iter().all(|request| request.line.ends_with("/status")), "nothing else was sent");
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_with_ca_cert() {
    let fake = FakeServer::start(|_, _| Reply::json(200, STATUS)).await;
    let port = tls(&fake, SELF_SIGNED).await.port();
    let certificate = pem("self-signed.pem");
    let output = run(&format!("https://127.0.0.1:{port}"), &["status", "--ca-cert", &certificate], &[]).await;
    assert!(output.status.success(), "{}", messages(&output));
    let output = run(&format!("https://localhost:{port}"), &["status", "--ca-cert", &certificate], &[]).await;
    let stderr = messages(&output);
    assert_eq!(output.status.code(), Some(5), "{stderr}");
    assert!(
        stderr.contains("its certificate is for another name (127.0.0.1); use a name that is in it"),
        "{stderr}"
    );
}

#[tokio::test]
async fn proxy_variables_work_as_in_curl() {
    let fake = FakeServer::start(|_, _| Reply::json(200, STATUS)).await;
    let (address, heads) = proxy(None).await;
    let url = format!("http://ada:hunter2@{address}");
    // Loopback needs no proxy, and HTTP_PROXY is for CGI programs.
    for variable in ["http_proxy", "ALL_PROXY", "HTTP_PROXY"] {
        assert!(run(&fake.url, &["status"], &[(variable, &url)]).await.status.success(), "{variable}");
    }
    assert!(heads.lock().unwrap().is_empty());
    let output = run("https://proxy.example", &["status"], &[("HTTPS_PROXY", &url)]).await;
    let (stderr, named) = (messages(&output), format!("(proxy http://{address} of HTTPS_PROXY)"));
    assert!(
        output.status.code() == Some(5) && stderr.contains(&named) && !stderr.contains("hunter2"),
        "{stderr}"
    );
    let output = run("https://proxy.example", &["status"], &[("HTTPS_PROXY", "ftp://u:hunter2@h")]).await;
    let stderr = messages(&output);
    assert!(
        output.status.code() == Some(2) && stderr.contains("environment variable HTTPS_PROXY"),
        "{stderr}"
    );
    assert!(!stderr.contains("hunter2"), "{stderr}");
}
