//! `Retry-After` (RFC 9110, section 10.2.3).

use std::time::{Duration, SystemTime};

use reqwest::header::{self, HeaderMap, HeaderName};

/// The delay of a response: seconds, or a date that is compared with the response's own `Date`, as the target's clock may be wrong.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that overflows is as good as the maximum: the delay is capped.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = date(headers, &header::DATE).unwrap_or_else(SystemTime::now);
    Some(until.duration_since(now).unwrap_or_default())
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn seconds_and_dates_by_the_clock_of_the_response_are_accepted() {
        let parse = |text, date: Option<&'static str>| {
            let date = date.map(|date| (header::DATE, HeaderValue::from_static(date)));
            retry_after(
                &[(header::RETRY_AFTER, HeaderValue::from_static(text))].into_iter().chain(date).collect(),
            )
        };
        assert_eq!(parse("7", None), Some(Duration::from_secs(7)));
        assert_eq!(parse("Fri, 31 Dec 1999 23:59:59 GMT", None), Some(Duration::ZERO));
        assert!(parse("Fri, 31 Dec 2100 23:59:59 GMT", None).unwrap() > Duration::from_secs(1 << 20));
        assert_eq!(parse("99999999999999999999", None), Some(Duration::from_secs(u64::MAX)));
        assert_eq!((parse("soon", None), parse("", None), parse("-1", None)), (None, None, None));
        let (noon, later) = ("Fri, 31 Dec 1999 12:00:00 GMT", "Fri, 31 Dec 1999 12:00:30 GMT");
        assert_eq!(parse(later, Some(noon)), Some(Duration::from_secs(30)));
        assert_eq!(parse(noon, Some(later)), Some(Duration::ZERO));
        assert_eq!(parse("7", Some(noon)), Some(Duration::from_secs(7)));
    }
}
