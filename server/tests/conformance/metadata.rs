//! The OAuth server metadata (RFC 8414), and the public URL of the server in it.

use serde_json::Value;

use crate::common::{Home, RawResponse, Server, eventually, problem_body, raw};

const PATH: &str = "/.well-known/oauth-authorization-server";

/// Requests the metadata with these headers.
async fn fetch(server: &Server, headers: &[(&str, &str)]) -> RawResponse {
    let lines: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    raw(&server.address, format!("GET {PATH} HTTP/1.1\r\n{}\r\n", lines.concat())).await
}

/// The issuer of the metadata. Checks that the token endpoint begins with it.
async fn issuer(server: &Server, headers: &[(&str, &str)]) -> String {
    let response = fetch(server, headers).await;
    assert_eq!(response.status, 200, "{headers:?}: {}", response.body);
    let metadata: Value = serde_json::from_str(&response.body).unwrap();
    let issuer = metadata["issuer"].as_str().unwrap();
    assert_eq!(metadata["token_endpoint"], format!("{issuer}/oauth/token"));
    issuer.to_owned()
}

#[tokio::test]
async fn the_metadata_has_the_token_endpoint_and_is_not_cached() {
    let server = Server::start(&[]);
    let secret = server.home.add_app("bot");
    for method in [reqwest::Method::GET, reqwest::Method::HEAD] {
        let response = server.http.request(method, server.url(PATH)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["cache-control"], "no-store");
    }
    let metadata: Value = server.get(PATH).await.json().await.unwrap();
    assert_eq!(metadata["issuer"], format!("http://{}", server.address).as_str());
    let endpoint = metadata["token_endpoint"].as_str().unwrap();
    let post = server.http.post(endpoint).basic_auth("bot", Some(&secret));
    let token = post.body("grant_type=client_credentials").send().await.unwrap();
    assert_eq!(token.status(), 200, "{endpoint}");
}

#[tokio::test]
async fn the_issuer_is_the_host_of_the_request() {
    let server = Server::start(&[]);
    for (host, expected) in [
        ("proxy.example", "http://proxy.example"),
        ("proxy.example:8080", "http://proxy.example:8080"),
        ("Proxy.Example:80", "http://proxy.example"),
        ("[::1]:8080", "http://[::1]:8080"),
    ] {
        assert_eq!(issuer(&server, &[("host", host)]).await, expected);
    }
    for host in ["", "a b", "user@proxy.example", "proxy.example/path", "proxy.example:port"] {
        assert_eq!(fetch(&server, &[("host", host)]).await.status, 400, "{host}");
    }
    assert_eq!(fetch(&server, &[]).await.status, 400);
}

#[tokio::test]
async fn forwarded_headers_of_an_untrusted_peer_are_ignored_and_logged() {
    for flags in [&[][..], &["--trusted-proxy", "10.0.0.0/8,::1"]] {
        let server = Server::start(flags);
        for forged in [
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "attacker.example"),
            ("x-forwarded-port", "4443"),
            ("x-forwarded-host", "not a host"),
            ("forwarded", "host=attacker.example;proto=https"),
        ] {
            let issuer = issuer(&server, &[("host", "proxy.example:8080"), forged]).await;
            assert_eq!(issuer, "http://proxy.example:8080", "{forged:?}");
        }
        eventually("the ignored header is logged", async || server.log().contains("--trusted-proxy")).await;
        let log = server.log();
        assert_eq!(log.matches("--trusted-proxy").count(), 1, "at most once a minute: {log}");
        assert!(log.contains("127.0.0.1"), "{log}");
    }
}

#[tokio::test]
async fn forwarded_headers_of_a_trusted_proxy_set_the_issuer() {
    let server = Server::start(&["--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "127.0.0.1"]);
    let (proto, forwarded, port) = ("x-forwarded-proto", "x-forwarded-host", "x-forwarded-port");
    for (headers, expected) in [
        (vec![], "http://behind"),
        (vec![(proto, "https")], "https://behind"),
        (vec![(proto, "HTTPS"), (port, "8443")], "https://behind:8443"),
        (vec![(proto, "https"), (port, "443")], "https://behind"),
        (vec![(proto, "https"), (forwarded, "proxy.example")], "https://proxy.example"),
        (
            vec![(proto, "https"), (forwarded, "proxy.example:8443"), (port, "443")],
            "https://proxy.example:8443",
        ),
        (vec![(forwarded, "[2001:db8::1]"), (port, "8080")], "http://[2001:db8::1]:8080"),
        (vec![("forwarded", "host=attacker.example;proto=https")], "http://behind"),
        (vec![("x-forwarded-for", "1.2.3.4"), ("x-forwarded-prefix", "/p")], "http://behind"),
    ] {
        let headers: Vec<_> = [("host", "behind")].into_iter().chain(headers).collect();
        assert_eq!(issuer(&server, &headers).await, expected, "{headers:?}");
    }
}

#[tokio::test]
async fn a_malformed_or_repeated_forwarded_header_of_a_trusted_proxy_is_400() {
    let server = Server::start(&["--trusted-proxy", "127.0.0.0/8"]);
    for (name, values) in [
        ("x-forwarded-proto", vec!["", "ftp", "https,http", "https, http", "https://"]),
        (
            "x-forwarded-host",
            vec!["", "a,b", "a, b", "a,b:1", "a b", "user@a", "a/b", "a?b", "a:port", "\u{e9}"],
        ),
        ("x-forwarded-port", vec!["", "0", "65536", "+443", "443,80", "443, 80", "https"]),
    ] {
        for value in values {
            let refused = fetch(&server, &[("host", "behind"), (name, value)]).await;
            assert_eq!(refused.status, 400, "{name}: {value}: {}", refused.body);
            let detail = problem_body(&refused.body, 400).to_ascii_lowercase();
            assert!(detail.contains(name), "{detail}");
        }
        let twice = fetch(&server, &[("host", "behind"), (name, "443"), (name, "443")]).await;
        assert_eq!(twice.status, 400, "{name}");
    }
}

#[tokio::test]
async fn a_trusted_ipv4_proxy_is_recognised_on_an_ipv6_socket() {
    if std::net::TcpListener::bind("[::]:0").is_err() {
        return println!("skipped: this machine has no IPv6");
    }
    let home = std::sync::Arc::new(Home::new());
    let mut command = home.command();
    command.args(["--store", "memory:", "--listen", "[::]:0", "--trusted-proxy", "127.0.0.1"]);
    let mut server = Server::launch(home, command);
    server.address = server.address.replace("[::]", "127.0.0.1");
    let headers = [("host", "proxy.example"), ("x-forwarded-proto", "https")];
    assert_eq!(issuer(&server, &headers).await, "https://proxy.example");
}

#[tokio::test]
async fn the_public_url_flag_overrides_host_and_forwarded_headers() {
    for (public_url, expected) in [
        ("https://hooks.example", "https://hooks.example"),
        ("https://hooks.example/", "https://hooks.example"),
        ("https://Hooks.Example:443/proxy/", "https://hooks.example/proxy"),
    ] {
        let server = Server::start(&["--public-url", public_url, "--trusted-proxy", "127.0.0.1"]);
        for headers in [
            vec![("host", "behind")],
            vec![("host", "behind"), ("x-forwarded-host", "other.example"), ("x-forwarded-proto", "http")],
            vec![("host", "behind"), ("x-forwarded-host", "a, b")],
        ] {
            assert_eq!(issuer(&server, &headers).await, expected, "{headers:?}");
        }
    }
}

#[tokio::test]
async fn trusted_proxies_can_be_set_by_an_environment_variable() {
    let home = std::sync::Arc::new(Home::new());
    let mut command = home.command();
    command.args(["--store", "memory:", "--listen", "127.0.0.1:0"]);
    command.env("WWPROXY_TRUSTED_PROXY", "10.0.0.0/8,127.0.0.1");
    let server = Server::launch(home, command);
    let headers = [("host", "proxy.example"), ("x-forwarded-proto", "https")];
    assert_eq!(issuer(&server, &headers).await, "https://proxy.example");
}
