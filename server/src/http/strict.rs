//! Checks of every request that hyper does not make (RFC 9112).

use warp::http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header, uri::Authority};

use super::error::ApiError;

/// Rejects a malformed request, and one that a reverse proxy could interpret differently (request smuggling).
pub(super) fn check<B>(request: &Request<B>) -> Result<(), ApiError> {
    let checked = check_host(request.version(), request.headers())
        .and_then(|()| check_transfer_coding(request.headers()));
    // The connection must be closed: the end of such a request's body is ambiguous.
    checked.map_err(|error| error.header(header::CONNECTION, HeaderValue::from_static("close")))?;
    // `CONNECT host:port` and `OPTIONS *` have no path, which warp's path filters require.
    if request.uri().path().starts_with('/') {
        Ok(())
    } else {
        Err(ApiError::method_not_allowed(&["GET", "POST"]))
    }
}

/// RFC 9112, section 3.2.
fn check_host(version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let is_valid = match (hosts.next(), hosts.next()) {
        (None, _) => version < Version::HTTP_11,
        (Some(host), None) => is_valid_host(host),
        (Some(_), Some(_)) => false,
    };
    if is_valid {
        Ok(())
    } else {
        Err(ApiError::bad_request(
            "A request must have one Host header that names this server, as in \"Host: proxy.example.com:8080\".",
        ))
    }
}

/// Whether this is a host with an optional port (RFC 3986, sections 3.2.2 and 3.2.3).
fn is_valid_host(value: &HeaderValue) -> bool {
    let Some(authority) = value.to_str().ok().and_then(|text| text.parse::<Authority>().ok()) else {
        return false;
    };
    // RFC 3986 allows a comma in a host, but a proxy that appends its own value makes a list with it.
    if authority.as_str().contains(',') {
        return false;
    }
    // The authority starts with the host, unless it has a user name.
    let Some(rest) = authority.as_str().strip_prefix(authority.host()) else { return false };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    !authority.host().is_empty() && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
}

/// Only `chunked` is supported as transfer coding (RFC 9112, section 6.1).
fn check_transfer_coding(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_known = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    if is_known {
        Ok(())
    } else {
        let detail = "This transfer coding is not supported: send the body with Content-Length, or with chunked alone.";
        Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        let is_valid = |text: &str| is_valid_host(&HeaderValue::from_str(text).unwrap());
        for good in ["x", "proxy.example.com", "localhost:8080", "127.0.0.1:1", "[::1]", "[::1]:65535", "a_b"]
        {
            assert!(is_valid(good), "{good}");
        }
        for bad in [
            "", " ", "a b", "user@x", "@x", "x:y", "x:+1", "x:65536", "x:1:2", ":1", "x/", "x?", "x#",
            "[::1", "::1", "[::1]x", "http://x", "a,b", "a,b c", "a,b:1", "\u{e4}",
        ] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
