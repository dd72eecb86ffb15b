//! `--listen`: where the server accepts connections.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use tokio::net::TcpListener;

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenAddress {
    /// This address: `IP:PORT`, or `PORT` for 127.0.0.1.
    One(SocketAddr),
    /// All addresses of the machine: `:PORT`.
    All(u16),
}

impl ListenAddress {
    /// Binds a listener. For all addresses it is an IPv6 socket, which on Linux also accepts IPv4 unless
    /// `net.ipv6.bindv6only` is set. Without IPv6 it is an IPv4 socket.
    pub async fn bind(self) -> io::Result<TcpListener> {
        match self {
            Self::One(address) => TcpListener::bind(address).await,
            Self::All(port) => match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
                }
                bound => bound,
            },
        }
    }
}

impl FromStr for ListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "an address is IP:PORT, as in 0.0.0.0:8080 or [::1]:8080; PORT for 127.0.0.1; or :PORT for all addresses";
        let (digits, all) = text.strip_prefix(':').map_or((text, false), |port| (port, true));
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let port = digits.parse().map_err(|_| "a port is a number from 0 to 65535")?;
            return Ok(if all { Self::All(port) } else { Self::One((Ipv4Addr::LOCALHOST, port).into()) });
        }
        text.parse().map(Self::One).map_err(|_| WRONG)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => address.fmt(f),
            Self::All(port) => write!(f, ":{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_loopback_and_with_a_colon_all_addresses() {
        for (text, address) in
            [("8080", "127.0.0.1:8080"), ("[::1]:1", "[::1]:1"), ("10.0.0.1:0", "10.0.0.1:0")]
        {
            assert_eq!(text.parse(), Ok(ListenAddress::One(address.parse().unwrap())), "{text}");
        }
        assert_eq!(":8080".parse(), Ok(ListenAddress::All(8080)));
        for bad in ["", ":", "+80", ":+80", ":65536", "65536", "::1", "localhost:80", "127.0.0.1", "*:80"] {
            assert!(bad.parse::<ListenAddress>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn all_addresses_include_the_ipv4_loopback() {
        let listener = ListenAddress::All(0).bind().await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let taken = ListenAddress::All(port).bind().await.unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
