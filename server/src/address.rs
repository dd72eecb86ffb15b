//! Addresses that an operator configures: the server's public URL, and the reverse proxies it trusts.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use reqwest::Url;

/// The `http` or `https` URL under which clients reach the server, normalised and without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// The URL as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PublicUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "a public URL is http:// or https:// and a host, as in https://proxy.example.com or https://example.com/wwproxy";
        // The URL parser repairs these silently.
        let repaired = |c: char| c.is_whitespace() || c.is_control() || c == '\\';
        let authority = text.split_once("://").map_or("", |(_, rest)| rest);
        if text.contains(repaired) || authority.is_empty() || authority.starts_with('/') {
            return Err(FORM);
        }
        let url = Url::parse(text).map_err(|_| FORM)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(FORM);
        }
        // An empty user name is not visible in the parsed URL.
        if authority.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@')) {
            return Err("a public URL has no user name or password: every client would read them");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("a public URL has no query and no fragment: leave out everything from ? or # on");
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

/// A reverse proxy, or a network of them, whose `X-Forwarded-*` headers are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedProxy(IpNet);

impl TrustedProxy {
    /// Whether this peer address belongs to the proxy or the network.
    #[must_use]
    pub fn contains(&self, peer: IpAddr) -> bool {
        // A socket that listens on `[::]` reports IPv4 peers as ::ffff:a.b.c.d.
        self.0.contains(&peer.to_canonical())
    }

    /// Whether every address is trusted: then any client decides how it reached the server.
    #[must_use]
    pub fn is_everyone(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TrustedProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        let network = address.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
            "a trusted proxy is an address or a network in CIDR notation, as in 127.0.0.1, 10.0.0.0/8 or fd00::/8"
        })?;
        if network.addr() != network.network() {
            return Err(format!("{network} has bits set after its prefix: write {}", network.trunc()));
        }
        match network {
            IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
                Err(format!("{network} is an IPv4 address mapped to IPv6: write it as IPv4"))
            }
            network => Ok(Self(network)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_urls_are_normalised() {
        for (text, url) in [
            ("https://proxy.example.com", "https://proxy.example.com"),
            ("https://proxy.example.com/", "https://proxy.example.com"),
            ("HTTPS://Proxy.Example.com:443", "https://proxy.example.com"),
            ("http://10.0.0.1:8080", "http://10.0.0.1:8080"),
            ("http://[::1]:80/", "http://[::1]"),
            ("https://example.com:8443/wwproxy/", "https://example.com:8443/wwproxy"),
            ("https://example.com/a@b", "https://example.com/a@b"),
        ] {
            assert_eq!(text.parse::<PublicUrl>().unwrap().as_str(), url, "{text}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for text in [
            "",
            "proxy.example.com",
            "proxy.example.com:443",
            "//proxy.example.com",
            "ftp://proxy.example.com",
            "https:proxy.example.com",
            "https:/proxy.example.com",
            "https:///proxy.example.com",
            "https:\\\\proxy.example.com",
            "https://",
            "https://:443",
            "https://host:port",
            "https://host:99999",
            "https://proxy.example.com?",
            "https://proxy.example.com/?a=b",
            "https://proxy.example.com/#",
            "https://user@proxy.example.com",
            "https://user:password@proxy.example.com",
            "https://@proxy.example.com",
            " https://proxy.example.com",
            "https://proxy.example.com\n",
            "https://proxy.exa\tmple.com",
            "https://a b",
            "mailto:a@b",
        ] {
            assert!(text.parse::<PublicUrl>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_an_address_or_a_network() {
        let contains = |network: &str, peer: &str| {
            network.parse::<TrustedProxy>().unwrap().contains(peer.parse().unwrap())
        };
        for (network, inside, outside) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.168.1.4/30", "192.168.1.7", "192.168.1.8"),
            ("::1", "::1", "::2"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("127.0.0.1", "::ffff:127.0.0.1", "::1"),
            ("0.0.0.0/0", "8.8.8.8", "::1"),
        ] {
            assert!(contains(network, inside), "{network} {inside}");
            assert!(!contains(network, outside), "{network} {outside}");
        }
    }

    #[test]
    fn other_trusted_proxies_are_refused() {
        for text in [
            "",
            "localhost",
            "127.0.0.1:80",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.0/",
            "10/8",
            "fd00::/129",
            "[::1]",
            "::ffff:10.0.0.1",
            "::ffff:10.0.0.0/104",
        ] {
            assert!(text.parse::<TrustedProxy>().is_err(), "{text:?}");
        }
    }
}
