//! Validates the server's address and the token endpoint, to which the app's secret is sent.

use reqwest::Url;
use wwproxy_protocol::api::AuthorizationServer;

use crate::{Error, ErrorKind, error::sanitize, proxy::is_loopback};

/// Parses the server's address.
pub(crate) fn server_url(text: &str) -> Result<Url, Error> {
    let wrong = |message| Error::new(ErrorKind::Usage, message);
    // The parser's message ("relative URL without a base") does not help the user.
    let url = Url::parse(text).map_err(|_| {
        wrong(
            "the server's address is not a URL; give it with its scheme, such as https://proxy.example.com or \
             http://127.0.0.1:8080",
        )
    })?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("the server's address must start with https:// or http://"));
    }
    let is_bare = !has_credentials(&url) && url.query().is_none() && url.fragment().is_none();
    // The address is shown in logs and errors, so it must not contain credentials.
    if is_bare {
        Ok(url)
    } else {
        Err(wrong("the server's address must have no user, password, query or fragment"))
    }
}

/// Whether the URL has a user or password. They would be shown and saved with it, and sent as a second `Authorization` header.
fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Appends a path to the server's address.
pub(crate) fn join_path(server: &Url, path: &str) -> Result<Url, Error> {
    let url = format!("{}{path}", server.as_str().trim_end_matches('/'));
    Url::parse(&url).map_err(|error| {
        Error::new(ErrorKind::Usage, "the server's address cannot be used").with_source(error)
    })
}

/// Parses the token endpoint that the caller configured. It takes precedence over the server's metadata.
pub(crate) fn configured_endpoint(server: &Url, endpoint: &str, allow_http: bool) -> Result<Url, Error> {
    let wrong = |message| Error::new(ErrorKind::Usage, message);
    let url = Url::parse(endpoint).map_err(|error| {
        wrong("the token endpoint is not a URL; give one such as https://proxy.example.com/oauth/token")
            .with_source(error)
    })?;
    if has_credentials(&url) {
        return Err(wrong("the token endpoint must have no user or password"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if server.scheme() == "https" => Err(wrong(
            "the server is https:// and the token endpoint is not; the app's secret is not sent unencrypted",
        )),
        "http" => check_cleartext(&url, allow_http, "token endpoint").map(|()| url),
        _ => Err(wrong("the token endpoint must start with https:// or http://")),
    }
}

/// Validates the token endpoint of the server's metadata. It must have the server's origin, because forged metadata would
/// send the app's secret to an attacker. The issuer must be the server (RFC 8414, section 3.3).
pub(crate) fn metadata_endpoint(server: &Url, metadata: &AuthorizationServer) -> Result<Url, Error> {
    let wrong = |message| Error::new(ErrorKind::Protocol, message);
    let address = server.as_str().trim_end_matches('/');
    let issuer = Url::parse(&metadata.issuer);
    if issuer.as_ref().map(|issuer| issuer.as_str().trim_end_matches('/')) != Ok(address) {
        return Err(wrong(format!(
            "the server's metadata says that its address is {}, and not {address}; use that address if it is right. \
             The operator of a server behind a reverse proxy sets --public-url {address}. \
             To bypass the metadata, give the token endpoint (--token-endpoint URL)",
            redact(&metadata.issuer)
        )));
    }
    match Url::parse(&metadata.token_endpoint) {
        Ok(url) if url.origin() == server.origin() && has_credentials(&url) => Err(wrong(
            "the server's metadata names a token endpoint with a user or password; its operator must remove them"
                .into(),
        )),
        Ok(url) if url.origin() == server.origin() => Ok(url),
        // The advice does not repeat the URL: forged metadata would otherwise lead the user to send the secret there.
        _ => Err(wrong(format!(
            "the server's metadata names a token endpoint of another origin, {}; the app's secret is not sent there \
             because of the metadata alone. Ask the server's operator for the right one, and give it (--token-endpoint URL)",
            redact(&metadata.token_endpoint)
        ))),
    }
}

/// Removes the parts of a metadata URL that may contain secrets, so that errors can show it.
fn redact(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return sanitize(url.split('?').next().unwrap_or_default()) };
    url.set_query(None);
    url.set_fragment(None);
    // Fails only for a URL without a host, which has neither.
    let _ = (url.set_username(""), url.set_password(None));
    sanitize(url.as_str().trim_end_matches('/'))
}

/// Rejects `http://` to another machine unless the caller allows it.
pub(crate) fn check_cleartext(url: &Url, allowed: bool, what: &str) -> Result<(), Error> {
    if url.scheme() != "http" || allowed || is_loopback(url) {
        return Ok(());
    }
    let message = format!(
        "the {what} is http:// to another machine, so credentials and events would cross the network unencrypted; \
         use https://, or allow it (--allow-http, WWPROXY_ALLOW_HTTP=1)"
    );
    Err(Error::new(ErrorKind::Usage, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_credentials_is_rejected() {
        for valid in ["http://127.0.0.1:8080", "https://proxy.example/prefix/", "http://[::1]:1"] {
            assert!(server_url(valid).is_ok(), "{valid}");
        }
        for invalid in [
            "",
            "proxy.example",
            "ftp://h",
            "https://u:hunter2@h",
            "https://h?token=hunter2",
            "https://h#hunter2",
        ] {
            let error = server_url(invalid).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{invalid}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn an_address_without_a_scheme_is_rejected_with_an_example() {
        for address in ["127.0.0.1:8080", "proxy.example.com"] {
            let error = server_url(address).unwrap_err();
            assert!(error.to_string().contains("with its scheme, such as https://"), "{error}");
            assert!(std::error::Error::source(&error).is_none(), "{error:?}");
        }
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn an_https_server_has_no_http_token_endpoint() {
        let (tls, clear) = (url("https://proxy.example"), url("http://localhost:8080"));
        assert!(configured_endpoint(&tls, "https://other.example/oauth/token", false).is_ok());
        assert!(configured_endpoint(&clear, "http://localhost:8080/oauth/token", false).is_ok());
        for invalid in [
            "http://proxy.example/oauth/token",
            "https://u:hunter2@h/t",
            "ftp://proxy.example",
            "/oauth/token",
            "",
        ] {
            assert_eq!(
                configured_endpoint(&tls, invalid, true).unwrap_err().kind(),
                ErrorKind::Usage,
                "{invalid}"
            );
        }
        assert!(configured_endpoint(&clear, "file:///etc/passwd", true).is_err());
        let elsewhere = "http://other.example/oauth/token";
        assert!(
            configured_endpoint(&clear, elsewhere, false).unwrap_err().to_string().contains("--allow-http")
        );
        assert!(configured_endpoint(&clear, elsewhere, true).is_ok());
    }

    #[test]
    fn metadata_of_another_origin_or_issuer_is_rejected() {
        let check = |server: &str, issuer: &str, endpoint: &str| {
            let metadata = serde_json::json!({"issuer": issuer, "token_endpoint": endpoint});
            metadata_endpoint(&url(server), &serde_json::from_value(metadata).unwrap())
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
            assert!(error.contains(&format!("of another origin, {shown};")), "{error}");
            assert!(error.ends_with("(--token-endpoint URL)") && !error.contains("hunter2"), "{error}");
        }
        for endpoint in ["https://u:hunter2@proxy.example/t", "https://u@proxy.example/t"] {
            let error = check(server, server, endpoint).unwrap_err();
            assert!(error.contains("user or password") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn paths_are_appended_to_the_prefix_of_the_address() {
        assert_eq!(
            join_path(&url("http://h/p/"), "/oauth/token").unwrap().as_str(),
            "http://h/p/oauth/token"
        );
        assert_eq!(join_path(&url("http://h"), "/oauth/token").unwrap().as_str(), "http://h/oauth/token");
    }
}
