//! Tables and ages, for a terminal.

use std::{fmt::Write as _, time::SystemTime};

use wwproxy_sdk::sanitize;

/// Formats rows with aligned columns. The cells are sanitized: a server chooses some of them.
pub(crate) fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| row.each_ref().map(|cell| sanitize(cell))).collect();
    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Formats a line for each name that has a text: the name, in a column of this width, and the text, sanitized.
pub(crate) fn labelled(width: usize, rows: &[(&str, Option<String>)]) -> String {
    let shown = rows.iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
    let lines: Vec<_> = shown.map(|(name, text)| format!("  {name:width$} {}\n", sanitize(text))).collect();
    lines.concat()
}

/// Formats how long ago an RFC 3339 time was, such as `5m ago`. A text that is no time is returned as it is.
pub(crate) fn ago(time: &str, now: SystemTime) -> String {
    let Ok(time) = humantime::parse_rfc3339_weak(time) else { return time.to_owned() };
    // The server's clock may be ahead.
    let seconds = now.duration_since(time).unwrap_or_default().as_secs();
    let (unit, length) = match seconds {
        0..60 => ("s", 1),
        60..3600 => ("m", 60),
        3600..86400 => ("h", 3600),
        _ => ("d", 86400),
    };
    format!("{}{unit} ago", seconds / length)
}

/// Formats an RFC 3339 time to the second. A text that is no time is returned as it is.
pub(crate) fn to_the_second(time: &str) -> String {
    match humantime::parse_rfc3339_weak(time) {
        Ok(time) => humantime::format_rfc3339_seconds(time).to_string(),
        Err(_) => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cells_sanitized() {
        let rows = [["NAME", "SCHEME", "END"], ["é", "git\u{1b}[2Jhub\n", ""], ["long-name", "x", "y"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        let table = "NAME       SCHEME       END\né          git [2Jhub\nlong-name  x            y\n";
        assert_eq!(aligned(&rows), table);
    }

    #[test]
    fn an_age_has_one_unit() {
        let at = |text| humantime::parse_rfc3339(text).unwrap();
        let now = at("2026-01-31T12:00:00Z");
        for (time, age) in [
            ("2026-01-31T12:00:07Z", "0s ago"),
            ("2026-01-31T11:59:01.5Z", "58s ago"),
            ("2026-01-31T11:59:00Z", "1m ago"),
            ("2026-01-31T10:00:01Z", "1h ago"),
            ("2026-01-28T12:00:00Z", "3d ago"),
            ("yesterday", "yesterday"),
        ] {
            assert_eq!(ago(time, now), age);
        }
        assert_eq!(to_the_second("2026-01-31T12:00:07.123Z"), "2026-01-31T12:00:07Z");
    }
}
