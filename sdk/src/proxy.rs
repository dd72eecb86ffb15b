//! Which proxy a connection goes through: the variables of the environment, as curl reads them.

use std::{env, fmt, net::IpAddr};

use reqwest::Url;

use crate::{Error, ErrorKind};

/// The port of a proxy whose address names none, as in curl.
const DEFAULT_PORT: u16 = 1080;
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// A proxy, and the variable that names it. `Debug` and `Display` leave out user and password.
#[derive(Clone)]
pub(crate) struct ProxyServer {
    url: Url,
    variable: Option<&'static str>,
}

impl ProxyServer {
    /// Parses `[SCHEME://][USER:PASSWORD@]HOST[:PORT]`. The error shows nothing of the text, which may hold a password.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let mut url = Url::parse(&full).ok()?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if !SCHEMES.contains(&url.scheme()) || !url.has_host() || !bare {
            return None;
        }
        if !names_port(&full) && url.scheme() != "https" {
            url.set_port(Some(DEFAULT_PORT)).ok()?;
        }
        Some(Self { url, variable: None })
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Whether it speaks HTTP, and not SOCKS.
    pub(crate) fn is_http(&self) -> bool {
        matches!(self.url.scheme(), "http" | "https")
    }
}

/// Whether a URL has a port; `Url` forgets one that is the scheme's default.
fn names_port(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.rsplit_once(']').map_or(host, |(_, port)| port).contains(':')
}

impl fmt::Display for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.url.scheme(), self.url.host_str().unwrap_or_default())?;
        if let Some(port) = self.url.port_or_known_default() {
            write!(f, ":{port}")?;
        }
        self.variable.map_or(Ok(()), |variable| write!(f, " of {variable}"))
    }
}

impl fmt::Debug for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// The proxies of the environment: `https_proxy` and `HTTPS_PROXY`, `http_proxy` (in lower case only: a CGI program gets
/// `HTTP_PROXY` from its client's `Proxy` header), `all_proxy` and `ALL_PROXY`, `no_proxy` and `NO_PROXY`. Lower case
/// comes first, and an empty variable is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    http: Option<ProxyServer>,
    https: Option<ProxyServer>,
    exempt: String,
}

impl Environment {
    pub(crate) fn read() -> Result<Self, Error> {
        Self::from(|name| env::var(name).ok())
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let first = |names: &[&'static str]| {
            let set = |&name: &&'static str| {
                variable(name).filter(|text| !text.is_empty()).map(|text| (name, text))
            };
            names.iter().find_map(set)
        };
        let proxy = |names: &[&'static str]| {
            let Some((variable, text)) = first(names) else { return Ok(None) };
            let proxy = ProxyServer::parse(text.trim()).ok_or_else(|| {
                let message = format!("{variable} of the environment is no proxy's address; {EXAMPLE}");
                Error::new(ErrorKind::Usage, message)
            })?;
            Ok(Some(ProxyServer { variable: Some(variable), ..proxy }))
        };
        Ok(Self {
            http: proxy(&["http_proxy", "all_proxy", "ALL_PROXY"])?,
            https: proxy(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?,
            exempt: first(&["no_proxy", "NO_PROXY"]).map(|(_, text)| text).unwrap_or_default(),
        })
    }

    /// The proxy to this URL. A loopback host is reached without one, unlike in curl.
    pub(crate) fn proxy(&self, url: &Url) -> Option<&ProxyServer> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !is_loopback(url) && !is_exempt(&self.exempt, host(url)))
    }
}

pub(crate) const EXAMPLE: &str = "give one such as http://proxy.example.com:3128";

/// Whether a URL's host is this machine: `localhost` and names below it, a loopback address, or the unspecified one.
#[cfg_attr(not(feature = "reqwest"), allow(unreachable_pub, reason = "public with the feature"))]
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    let host = host(url);
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        // To connect to the unspecified address is to connect to this machine.
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// The host, without the brackets of an IPv6 address and the dot at the end of a full name.
fn host(url: &Url) -> &str {
    let host = url.host_str().unwrap_or_default();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).trim_end_matches('.')
}

/// Whether `NO_PROXY` names this host: `*`, a domain with all below it, an address or a network (`10.0.0.0/8`), separated by
/// commas or blanks.
fn is_exempt(list: &str, host: &str) -> bool {
    let address: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ', '\t']).filter(|item| !item.is_empty()).any(|item| match address {
        _ if item == "*" => true,
        Some(address) => holds_address(item, address),
        None => is_at_or_below(item, host),
    })
}

fn is_at_or_below(domain: &str, host: &str) -> bool {
    let domain = domain.strip_prefix('.').unwrap_or(domain);
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let Some(start) = host.len().checked_sub(domain.len()).filter(|_| !domain.is_empty()) else {
        return false;
    };
    let matches = host.get(start..).is_some_and(|end| end.eq_ignore_ascii_case(domain));
    matches && (start == 0 || host.as_bytes()[start - 1] == b'.')
}

fn holds_address(item: &str, address: IpAddr) -> bool {
    let (network, bits) = item.split_once('/').map_or((item, None), |(network, bits)| (network, Some(bits)));
    let network = network.trim_start_matches('[').trim_end_matches(']');
    let width = |address| if matches!(address, IpAddr::V4(_)) { 32 } else { 128 };
    let bits_of = |address| match address {
        // Both are 128 bits with the network in front, so that one shift compares either.
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => u128::from(address),
    };
    let Ok(network) = network.parse::<IpAddr>() else { return false };
    let Ok(bits) = bits.map_or(Ok(width(network)), str::parse::<u32>) else { return false };
    let differing = bits_of(network) ^ bits_of(address);
    network.is_ipv4() == address.is_ipv4() && bits <= width(network) && differing.leading_zeros() >= bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn environment(set: &[(&str, &str)]) -> Environment {
        let variable =
            |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Environment::from(variable).unwrap()
    }

    fn chosen(set: &[(&str, &str)], to: &str) -> String {
        environment(set).proxy(&url(to)).map_or("none".into(), ToString::to_string)
    }

    #[test]
    fn variables_are_chosen_as_curl_does() {
        for (set, to, proxy) in [
            (&[("HTTP_PROXY", "http://a:1")][..], "http://h", "none"),
            (&[("http_proxy", "http://a:1")], "http://h", "http://a:1 of http_proxy"),
            (&[("http_proxy", "http://a:1")], "https://h", "none"),
            (&[("HTTPS_PROXY", "http://a:1")], "http://h", "none"),
            (&[("https_proxy", "a:1"), ("HTTPS_PROXY", "b:1")], "https://h", "http://a:1 of https_proxy"),
            (&[("https_proxy", ""), ("HTTPS_PROXY", "b:1")], "https://h", "http://b:1 of HTTPS_PROXY"),
            (&[("ALL_PROXY", "socks5h://a")], "http://h", "socks5h://a:1080 of ALL_PROXY"),
            (&[("ALL_PROXY", "a"), ("https_proxy", "b")], "https://h", "http://b:1080 of https_proxy"),
            (&[("all_proxy", "http://a:80")], "https://h", "http://a:80 of all_proxy"),
            (&[("all_proxy", "https://a")], "https://h", "https://a:443 of all_proxy"),
            (&[("all_proxy", "http://u:p@[::1]")], "https://h", "http://[::1]:1080 of all_proxy"),
            (&[("ALL_PROXY", "a"), ("NO_PROXY", "h")], "https://h", "none"),
            (
                &[("ALL_PROXY", "a"), ("no_proxy", "x"), ("NO_PROXY", "h")],
                "https://h",
                "http://a:1080 of ALL_PROXY",
            ),
        ] {
            assert_eq!(chosen(set, to), proxy, "{set:?} {to}");
        }
    }

    #[test]
    fn loopback_needs_no_proxy() {
        for here in [
            "http://localhost:1",
            "https://a.localhost",
            "http://127.8.9.1",
            "http://[::1]:1",
            "http://localhost.",
        ] {
            assert_eq!(chosen(&[("ALL_PROXY", "a")], here), "none", "{here}");
            assert!(is_loopback(&url(here)), "{here}");
        }
        for there in
            ["http://example.com", "http://10.0.0.1", "http://localhost.example", "http://127.0.0.1.example"]
        {
            assert!(!is_loopback(&url(there)), "{there}");
        }
    }

    #[test]
    fn no_proxy_takes_names_addresses_and_networks() {
        for (list, host, exempt) in [
            ("*", "h", true),
            ("a.example, h.example", "h.example", true),
            ("a.example h.example", "h.example", true),
            ("example", "h.example", true),
            (".example", "h.example", true),
            (".example", "example", true),
            ("EXAMPLE.", "h.example", true),
            ("ample", "h.example", false),
            ("h.example", "example", false),
            ("h.example:443", "h.example", false),
            (",, ,", "h", false),
            (".", "h", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.0/8", "10.9.9.9", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("0.1", "10.0.0.1", false),
            ("fd00::/8", "fd12::1", true),
            ("[fd00::1]", "fd00::1", true),
            ("fd00::/8", "10.0.0.1", false),
            ("::/0", "10.0.0.1", false),
        ] {
            assert_eq!(is_exempt(list, host), exempt, "{list} {host}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_named_and_not_shown() {
        for bad in ["ftp://u:hunter2@h", "http://u:hunter2@", "http://h/hunter2", "http://h:hunter2"] {
            let error =
                Environment::from(|name| (name == "HTTPS_PROXY").then(|| bad.to_owned())).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(error.kind() == ErrorKind::Usage && text.contains("HTTPS_PROXY"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        let shown = environment(&[("https_proxy", "http://u:hunter2@h")]);
        assert!(!format!("{shown:?}").contains("hunter2"), "{shown:?}");
    }
}
