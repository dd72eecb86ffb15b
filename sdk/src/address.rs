//! Addresses: the server's, and where the app's secret may be sent.

use reqwest::Url;
use wwproxy_protocol::api::AuthorizationServer;

use crate::{Error, ErrorKind, error::harmless, proxy::is_loopback};

/// The server's address.
pub(crate) fn server_url(text: &str) -> Result<Url, Error> {
    let wrong = |message| Error::new(ErrorKind::Usage, message);
    let url = Url::parse(text).map_err(|error| {
        wrong("the server's address is no URL; give one such as https://proxy.example.com").because(error)
    })?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("the server's address must start with https:// or http://"));
    }
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    // The address is shown in logs and errors, so no credentials may be in it.
    if bare {
        Ok(url)
    } else {
        Err(wrong("the server's address must have no user, password, query or fragment"))
    }
}

/// A path on the server.
pub(crate) fn at(server: &Url, path: &str) -> Result<Url, Error> {
    let url = format!("{}{path}", server.as_str().trim_end_matches('/'));
    Url::parse(&url)
        .map_err(|error| Error::new(ErrorKind::Usage, "the server's address cannot be used").because(error))
}

/// The token endpoint that the caller gave: the app's secret goes there, whatever the server's metadata says.
pub(crate) fn given_endpoint(server: &Url, endpoint: &str, allow_http: bool) -> Result<Url, Error> {
    let wrong = |message| Error::new(ErrorKind::Usage, message);
    let url = Url::parse(endpoint).map_err(|error| {
        wrong("the token endpoint is no URL; give one such as https://proxy.example.com/oauth/token")
            .because(error)
    })?;
    // It is shown and saved.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("the token endpoint must have no user or password"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if server.scheme() == "https" => Err(wrong(
            "the server is https:// and the token endpoint is not; the app's secret is not sent in clear",
        )),
        "http" => check_http(&url, allow_http, "token endpoint").map(|()| url),
        _ => Err(wrong("the token endpoint must start with https:// or http://")),
    }
}

/// The token endpoint of the server's own metadata. It must be on the server's origin, as metadata that an attacker has changed
/// would send the app's secret elsewhere; and the metadata must be this server's (RFC 8414, section 3.3).
pub(crate) fn own_endpoint(server: &Url, metadata: &AuthorizationServer) -> Result<Url, Error> {
    let wrong = |message| Error::new(ErrorKind::Protocol, message);
    let asked = server.as_str().trim_end_matches('/');
    let issuer = Url::parse(&metadata.issuer);
    if issuer.as_ref().map(|issuer| issuer.as_str().trim_end_matches('/')) != Ok(asked) {
        return Err(wrong(format!(
            "the server's metadata says that its address is {}, and not {asked}; use that address if it is right. \
             The operator of a server behind a reverse proxy sets --public-url {asked}. \
             To do without the metadata give the token endpoint (--token-endpoint URL)",
            shown(&metadata.issuer)
        )));
    }
    match Url::parse(&metadata.token_endpoint) {
        Ok(url) if url.origin() == server.origin() => Ok(url),
        _ => Err(wrong(format!(
            "the server's metadata names a token endpoint of another origin, {0}; the app's secret is not sent there \
             because of the metadata alone. If it is right (as with --identity watsonwork), give --token-endpoint {0}",
            shown(&metadata.token_endpoint)
        ))),
    }
}

/// A URL of the metadata as an error shows it: what may be a secret in it is left out.
fn shown(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return harmless(url.split('?').next().unwrap_or_default()) };
    url.set_query(None);
    url.set_fragment(None);
    // Only a URL without a host refuses these.
    let _ = (url.set_username(""), url.set_password(None));
    harmless(url.as_str().trim_end_matches('/'))
}

/// Checks that `http://` goes to this machine only, or that the caller allows more.
pub(crate) fn check_http(url: &Url, allowed: bool, what: &str) -> Result<(), Error> {
    if url.scheme() != "http" || allowed || is_loopback(url) {
        return Ok(());
    }
    let message = format!(
        "the {what} is http:// to another machine, so that credentials and events would cross the network in clear; \
         use https://, or allow it (--allow-http, WWPROXY_ALLOW_HTTP=1)"
    );
    Err(Error::new(ErrorKind::Usage, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_no_credentials() {
        for good in ["http://127.0.0.1:8080", "https://proxy.example/prefix/", "http://[::1]:1"] {
            assert!(server_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "proxy.example",
            "ftp://h",
            "https://u:hunter2@h",
            "https://h?token=hunter2",
            "https://h#hunter2",
        ] {
            let error = server_url(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{bad}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn the_secret_never_goes_out_in_clear_from_an_https_server() {
        let (tls, clear) = (url("https://proxy.example"), url("http://localhost:8080"));
        assert!(given_endpoint(&tls, "https://other.example/oauth/token", false).is_ok());
        assert!(given_endpoint(&clear, "http://localhost:8080/oauth/token", false).is_ok());
        for bad in [
            "http://proxy.example/oauth/token",
            "https://u:hunter2@h/t",
            "ftp://proxy.example",
            "/oauth/token",
            "",
        ] {
            assert_eq!(given_endpoint(&tls, bad, true).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
        assert!(given_endpoint(&clear, "file:///etc/passwd", true).is_err());
        let elsewhere = "http://other.example/oauth/token";
        assert!(given_endpoint(&clear, elsewhere, false).unwrap_err().to_string().contains("--allow-http"));
        assert!(given_endpoint(&clear, elsewhere, true).is_ok());
    }

    #[test]
    fn metadata_names_endpoints_of_the_server_only() {
        let check = |server: &str, issuer: &str, endpoint: &str| {
            let metadata = serde_json::json!({"issuer": issuer, "token_endpoint": endpoint});
            own_endpoint(&url(server), &serde_json::from_value(metadata).unwrap())
                .map_err(|error| error.to_string())
        };
        let server = "https://proxy.example";
        for (server, issuer, endpoint) in [
            (server, server, "https://proxy.example/oauth/token"),
            (server, "https://PROXY.example:443/", "https://proxy.example:443/t"),
            ("https://h/p/", "https://h/p", "https://h/p/oauth/token"),
        ] {
            check(server, issuer, endpoint).unwrap();
        }
        for issuer in
            ["http://proxy.example", "https://proxy.example:8443", "https://proxy.example/p", "", "x"]
        {
            let error = check(server, issuer, "https://proxy.example/oauth/token").unwrap_err();
            assert!(
                error.contains("--public-url https://proxy.example.") && error.contains("metadata"),
                "{error}"
            );
        }
        for (endpoint, shown) in [
            ("https://evil.example/oauth/token", "https://evil.example/oauth/token"),
            ("http://proxy.example/oauth/token", "http://proxy.example/oauth/token"),
            ("https://proxy.example:8443/t", "https://proxy.example:8443/t"),
            ("https://proxy.example:hunter2@evil.example/t?hunter2", "https://evil.example/t"),
            ("/oauth/token?hunter2", "/oauth/token"),
        ] {
            let error = check(server, server, endpoint).unwrap_err();
            assert!(error.ends_with(&format!("give --token-endpoint {shown}")), "{error}");
        }
    }

    #[test]
    fn paths_keep_the_prefix_of_the_server() {
        assert_eq!(at(&url("http://h/p/"), "/oauth/token").unwrap().as_str(), "http://h/p/oauth/token");
        assert_eq!(at(&url("http://h"), "/oauth/token").unwrap().as_str(), "http://h/oauth/token");
    }
}
