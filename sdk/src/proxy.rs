//! Proxy addresses, and the proxy variables of the environment, read as in curl.

use std::{env, fmt, net::IpAddr};

use reqwest::Url;

use crate::{Error, ErrorKind};

/// The port of a proxy address without a port, as in curl.
const DEFAULT_PORT: u16 = 1080;
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// A proxy, and the environment variable that it comes from. `Debug` and `Display` redact user and password.
#[derive(Clone)]
pub(crate) struct ProxyServer {
    url: Url,
    variable: Option<&'static str>,
}

impl ProxyServer {
    /// Parses `[SCHEME://][USER:PASSWORD@]HOST[:PORT]`. There is no error value that could show the password.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let mut url = Url::parse(&full).ok()?;
        let is_bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if !SCHEMES.contains(&url.scheme()) || !url.has_host() || !is_bare {
            return None;
        }
        if !has_port(&full) && url.scheme() != "https" {
            url.set_port(Some(DEFAULT_PORT)).ok()?;
        }
        Some(Self { url, variable: None })
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Whether this is an HTTP proxy, and not a SOCKS proxy.
    pub(crate) fn is_http(&self) -> bool {
        matches!(self.url.scheme(), "http" | "https")
    }
}

/// Whether the URL has an explicit port. `Url` drops the default port of the scheme.
fn has_port(url: &str) -> bool {
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

/// The proxies of the environment: `https_proxy` and `HTTPS_PROXY`, `http_proxy` (in lower case only: in a CGI program
/// `HTTP_PROXY` is the client's `Proxy` header), `all_proxy` and `ALL_PROXY`, `no_proxy` and `NO_PROXY`. Lower case
/// takes precedence, and empty variables are ignored.
#[derive(Clone, Debug, Default)]
pub(crate) struct EnvironmentProxies {
    http: Option<ProxyServer>,
    https: Option<ProxyServer>,
    no_proxy: String,
}

impl EnvironmentProxies {
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
                let message =
                    format!("the environment variable {variable} is not a proxy address; {EXAMPLE}");
                Error::new(ErrorKind::Usage, message)
            })?;
            Ok(Some(ProxyServer { variable: Some(variable), ..proxy }))
        };
        Ok(Self {
            http: proxy(&["http_proxy", "all_proxy", "ALL_PROXY"])?,
            https: proxy(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?,
            no_proxy: first(&["no_proxy", "NO_PROXY"]).map(|(_, text)| text).unwrap_or_default(),
        })
    }

    /// Returns the proxy for this URL. Loopback needs no proxy, unlike in curl.
    pub(crate) fn proxy(&self, url: &Url) -> Option<&ProxyServer> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !is_loopback(url) && !is_exempt(&self.no_proxy, host(url)))
    }
}

pub(crate) const EXAMPLE: &str = "give one such as http://proxy.example.com:3128";

/// Whether the URL's host is this machine: `localhost`, a loopback address, or the unspecified address. Other names, such as
/// `a.localhost`, are looked up, and a resolver may return any address.
#[cfg_attr(not(feature = "reqwest"), allow(unreachable_pub, reason = "public with the feature"))]
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match host(url).parse::<IpAddr>().map(|address| address.to_canonical()) {
        // A connection to the unspecified address reaches this machine.
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => url.host_str() == Some("localhost"),
    }
}

/// Returns the host without the brackets of an IPv6 address and without a trailing dot.
fn host(url: &Url) -> &str {
    let host = url.host_str().unwrap_or_default();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).trim_end_matches('.')
}

/// Whether `NO_PROXY` matches this host. Its items, separated by commas or blanks, are `*`, a domain, which includes its
/// subdomains, an address, or a network such as `10.0.0.0/8`.
fn is_exempt(list: &str, host: &str) -> bool {
    let address: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ', '\t']).filter(|item| !item.is_empty()).any(|item| match address {
        _ if item == "*" => true,
        Some(address) => matches_address(item, address),
        None => matches_domain(item, host),
    })
}

fn matches_domain(domain: &str, host: &str) -> bool {
    let domain = domain.strip_prefix('.').unwrap_or(domain);
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let Some(start) = host.len().checked_sub(domain.len()).filter(|_| !domain.is_empty()) else {
        return false;
    };
    let matches = host.get(start..).is_some_and(|end| end.eq_ignore_ascii_case(domain));
    matches && (start == 0 || host.as_bytes()[start - 1] == b'.')
}

fn matches_address(item: &str, address: IpAddr) -> bool {
    let (network, bits) = item.split_once('/').map_or((item, None), |(network, bits)| (network, Some(bits)));
    let network = network.trim_start_matches('[').trim_end_matches(']');
    let width = |address| if matches!(address, IpAddr::V4(_)) { 32 } else { 128 };
    let bits_of = |address| match address {
        // Both kinds start at the highest of 128 bits, so that leading zeros compare prefixes.
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

    fn environment(set: &[(&str, &str)]) -> EnvironmentProxies {
        let variable =
            |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        EnvironmentProxies::from(variable).unwrap()
    }

    fn chosen(set: &[(&str, &str)], to: &str) -> String {
        environment(set).proxy(&url(to)).map_or("none".into(), ToString::to_string)
    }

    #[test]
    fn variables_have_the_precedence_of_curl() {
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
            "http://LOCALHOST",
            "http://127.8.9.1",
            "http://[::1]:1",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert_eq!(chosen(&[("ALL_PROXY", "a")], here), "none", "{here}");
            assert!(is_loopback(&url(here)), "{here}");
        }
        for there in [
            "http://example.com",
            "http://10.0.0.1",
            "http://localhost.example",
            "http://127.0.0.1.example",
            "http://a.localhost",
            "http://localhost.",
        ] {
            assert_ne!(chosen(&[("ALL_PROXY", "a")], there), "none", "{there}");
            assert!(!is_loopback(&url(there)), "{there}");
        }
    }

    #[test]
    fn no_proxy_matches_domains_addresses_and_networks() {
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
    fn an_invalid_variable_is_named_and_its_value_not_shown() {
        for invalid in ["ftp://u:hunter2@h", "http://u:hunter2@", "http://h/hunter2", "http://h:hunter2"] {
            let error = EnvironmentProxies::from(|name| (name == "HTTPS_PROXY").then(|| invalid.to_owned()))
                .unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(error.kind() == ErrorKind::Usage && text.contains("HTTPS_PROXY"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        let shown = environment(&[("https_proxy", "http://u:hunter2@h")]);
        assert!(!format!("{shown:?}").contains("hunter2"), "{shown:?}");
    }
}
