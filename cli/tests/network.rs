//! Certificates and proxies on the way to the server.

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
/// How long a command may take that must not retry.
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

fn talk(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn pem(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/tests/tls").join(name).display().to_string()
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_ends_listen() {
    let fake = FakeServer::start(|_, _| Reply::json(200, STATUS)).await;
    for (certificate, given, says) in [
        (SERVER, "self-signed.pem", "its certificate is not trusted"),
        (EXPIRED, "expired.pem", "its certificate expired"),
    ] {
        let server = format!("https://{}", tls(&fake, certificate).await);
        for command in ["listen", "tail", "status"] {
            let output = run(&server, &[command, "--ca-cert", &pem(given)], &[]).await;
            let said = talk(&output);
            assert_eq!(output.status.code(), Some(5), "{said}");
            assert!(said.contains(says) && !said.contains("trying again"), "{said}");
        }
        assert!(run(&server, &["status", "--insecure"], &[]).await.status.success());
    }
    assert!(fake.requests().iter().all(|request| request.line.ends_with("/status")), "nothing else was sent");
}

#[tokio::test]
async fn a_self_signed_certificate_is_given_as_ca_cert() {
    let fake = FakeServer::start(|_, _| Reply::json(200, STATUS)).await;
    let port = tls(&fake, SELF_SIGNED).await.port();
    let certificate = pem("self-signed.pem");
    let output = run(&format!("https://127.0.0.1:{port}"), &["status", "--ca-cert", &certificate], &[]).await;
    assert!(output.status.success(), "{}", talk(&output));
    let output = run(&format!("https://localhost:{port}"), &["status", "--ca-cert", &certificate], &[]).await;
    let said = talk(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(
        said.contains("its certificate is for another name (127.0.0.1); use a name that is in it"),
        "{said}"
    );
}

#[tokio::test]
async fn proxy_variables_are_those_of_curl() {
    let fake = FakeServer::start(|_, _| Reply::json(200, STATUS)).await;
    let (address, heads) = proxy(None).await;
    let url = format!("http://ada:hunter2@{address}");
    // Loopback needs no proxy, and HTTP_PROXY is for CGI programs.
    for variable in ["http_proxy", "ALL_PROXY", "HTTP_PROXY"] {
        assert!(run(&fake.url, &["status"], &[(variable, &url)]).await.status.success(), "{variable}");
    }
    assert!(heads.lock().unwrap().is_empty());
    let output = run("https://proxy.example", &["status"], &[("HTTPS_PROXY", &url)]).await;
    let (said, named) = (talk(&output), format!("(proxy http://{address} of HTTPS_PROXY)"));
    assert!(output.status.code() == Some(5) && said.contains(&named) && !said.contains("hunter2"), "{said}");
    let output = run("https://proxy.example", &["status"], &[("HTTPS_PROXY", "ftp://u:hunter2@h")]).await;
    let said = talk(&output);
    assert!(output.status.code() == Some(2) && said.contains("environment variable HTTPS_PROXY"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
