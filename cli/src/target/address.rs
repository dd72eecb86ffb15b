//! Parses the address of a target.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use reqwest::Url;
use wwproxy_sdk::is_loopback;

/// The end of each error: the accepted forms.
const EXPECTED: &str =
    "give a port (3000), HOST:PORT, a URL such as http://localhost:3000/hook, or unix:/run/app.sock";
/// The prefix of a Unix socket.
const UNIX: &str = "unix:";

/// The address of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) url: Url,
    /// Whether the whole path of the original request is appended: the address ends in `/`.
    pub(super) append: bool,
    /// The Unix socket to connect to, in place of the URL's host.
    pub(super) socket: Option<PathBuf>,
}

impl Address {
    /// Parses `PORT`, `:PORT`, `HOST`, `HOST:PORT`, each also with `/PATH`, an `http://` or `https://` URL, or
    /// `unix:SOCKET[:/PATH]`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_prefix(UNIX) {
            Some(rest) => parse_unix(rest),
            None => parse_url(text),
        };
        parsed.map_err(|why| format!("{why}; {EXPECTED}"))
    }

    /// The address of a URL as it is.
    pub(crate) fn from_url(url: Url) -> Self {
        Self { url, append: false, socket: None }
    }

    /// Whether it is on this machine, so that no proxy is used.
    pub(super) fn is_local(&self) -> bool {
        self.socket.is_some() || self.loopback().is_some() || is_loopback(&self.url)
    }

    /// The addresses of a `localhost` name. As in curl and browsers it is not resolved: resolvers may not know it, or know only one of
    /// the two addresses.
    pub(super) fn loopback(&self) -> Option<(&str, [SocketAddr; 2])> {
        let port = self.url.port_or_known_default().unwrap_or_default();
        let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        is_localhost(self.host())
            .then(|| (self.host(), addresses.map(|address| SocketAddr::new(address, port))))
    }

    fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }
}

/// Without user, password and query: each may contain a secret.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        // This fails only for a URL without a host.
        let _ = (url.set_username(""), url.set_password(None));
        url.set_query(None);
        url.set_fragment(None);
        match &self.socket {
            Some(socket) => write!(f, "{UNIX}{}:{}", socket.display(), url.path()),
            None => url.fmt(f),
        }
    }
}

fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

fn parse_url(text: &str) -> Result<Address, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    if !matches!(scheme, "http" | "https") {
        return Err(format!("a target needs http:// or https://, not {scheme}://"));
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // `Url` reads a backslash as a slash, and ignores extra slashes before a host.
    if authority.is_empty() || text.contains('\\') {
        return Err("the host is missing".into());
    }
    // A port alone, with or without its colon.
    let port = authority.strip_prefix(':').unwrap_or(authority);
    let authority = if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("localhost:{port}")
    } else {
        authority.to_owned()
    };
    if let Some(scheme) = ["http", "https"].iter().find(|scheme| rest.starts_with(&format!("{scheme}:"))) {
        return Err(format!("{scheme}: needs two slashes, as in {scheme}://"));
    }
    let url = Url::parse(&format!("{scheme}://{authority}{path}"))
        .map_err(|error| format!("it is not a valid URL ({error})"))?;
    let host = url.host_str().unwrap_or_default();
    let numeric = host.parse::<Ipv4Addr>().is_ok_and(|_| !authority.contains(host));
    let named = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._[:]".contains(&byte));
    if !named || numeric || host.starts_with(['-', '.']) {
        return Err(format!("'{authority}' is not a host"));
    }
    if url.port() == Some(0) {
        return Err("port 0 is not valid".into());
    }
    Ok(Address { url, append: rest.ends_with('/'), socket: None })
}

#[cfg(unix)]
fn parse_unix(rest: &str) -> Result<Address, String> {
    let (socket, path) = rest.split_once(":/").unwrap_or((rest, ""));
    // `unix:///run/app.sock` is the same socket.
    let socket = socket.strip_prefix("//").unwrap_or(socket);
    if socket.is_empty() || socket.ends_with('/') {
        return Err("the path of the socket is missing".into());
    }
    std::os::unix::net::SocketAddr::from_pathname(socket)
        .map_err(|error| format!("'{socket}' is not a valid socket path ({error})"))?;
    let url = Url::parse(&format!("http://localhost/{path}"))
        .map_err(|error| format!("the path after the socket is not valid ({error})"))?;
    Ok(Address { url, append: rest.ends_with('/'), socket: Some(socket.into()) })
}

#[cfg(not(unix))]
fn parse_unix(_rest: &str) -> Result<Address, String> {
    Err("this system has no Unix sockets".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_hosts_and_urls_are_accepted() {
        for (text, url, append) in [
            ("3000", "http://localhost:3000/", false),
            (":3000", "http://localhost:3000/", false),
            ("3000/", "http://localhost:3000/", true),
            ("3000/hooks?a=1", "http://localhost:3000/hooks?a=1", false),
            ("localhost:3000/x", "http://localhost:3000/x", false),
            ("example.com/path", "http://example.com/path", false),
            ("app:8080", "http://app:8080/", false),
            ("my_app:8080", "http://my_app:8080/", false),
            ("127.0.0.1:3000", "http://127.0.0.1:3000/", false),
            ("[::1]:3000", "http://[::1]:3000/", false),
            ("https://h/a/", "https://h/a/", true),
            ("http://u:p@h/", "http://u:p@h/", true),
        ] {
            let expected = Address { url: url.parse().unwrap(), append, socket: None };
            assert_eq!(Address::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_error_ends_with_the_accepted_forms() {
        for bad in [
            "",
            "0",
            "70000",
            ":",
            ":abc",
            "localhost:abc",
            "3000:4000",
            "::1",
            "::1:3000",
            "3.5",
            "ftp://h",
            "http://",
            "http:3000",
            "http:/localhost:3000",
            "https:localhost",
            "http://a b",
            "/hook",
            "./app",
            "a,b",
            "C:\\hook",
            "-3000",
            "$PORT",
            "<port>",
            "http://h:0/",
            "unix:",
            "unix:/run/",
            "unix::/x",
        ] {
            let error = Address::parse(bad).unwrap_err();
            assert!(error.ends_with(EXPECTED), "{bad}: {error}");
        }
    }

    #[test]
    fn a_socket_may_have_a_path() {
        let parse = |text| {
            let Address { url, append, socket } = Address::parse(text).unwrap();
            (socket.unwrap().display().to_string(), url.path().to_owned(), append)
        };
        assert_eq!(parse("unix:/run/app.sock"), ("/run/app.sock".into(), "/".into(), false));
        assert_eq!(parse("unix:///run/app.sock"), ("/run/app.sock".into(), "/".into(), false));
        assert_eq!(parse("unix:app.sock:/hooks"), ("app.sock".into(), "/hooks".into(), false));
        assert_eq!(parse("unix:/run/app.sock:/"), ("/run/app.sock".into(), "/".into(), true));
        assert_eq!(Address::parse("unix:app.sock:/x").unwrap().to_string(), "unix:app.sock:/x");
        assert!(Address::parse(&format!("unix:/{}", "a".repeat(200))).is_err());
    }

    #[test]
    fn local_targets_use_no_proxy_and_no_resolver() {
        for local in ["3000", "http://a.localhost", "http://[::1]:1", "127.8.9.1", "unix:a"] {
            assert!(Address::parse(local).unwrap().is_local(), "{local}");
        }
        for other in ["http://example.com", "10.0.0.1", "localhost.example"] {
            let address = Address::parse(other).unwrap();
            assert!(!address.is_local() && address.loopback().is_none(), "{other}");
        }
        let address = Address::parse("3000").unwrap();
        let (host, addresses) = address.loopback().unwrap();
        assert_eq!(
            (host, addresses.map(|address| address.to_string())),
            ("localhost", ["127.0.0.1:3000".into(), "[::1]:3000".into()])
        );
    }

    #[test]
    fn a_password_is_not_shown() {
        for text in ["http://u:hunter2@h/", "http://h/?key=hunter2", "http://h/#hunter2"] {
            assert_eq!(Address::parse(text).unwrap().to_string(), "http://h/");
        }
    }
}
