//! What goes to standard output: tables for people, or one JSON document.

use std::io::{self, Write};

use serde::Serialize;

/// Writes one JSON document.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    // Whole before it is written: serde_json hides what went wrong with a writer.
    lines([serde_json::to_string_pretty(value)?])
}

/// So many of something, whose name takes an `s` if there are more or fewer than one.
pub(super) fn count(number: impl TryInto<u64>, of: &str) -> String {
    match number.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {of}"),
        number => format!("{number} {of}s"),
    }
}

/// Writes lines.
pub(super) fn lines(lines: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

/// Writes a table: the first row is its head, columns named in `right` are aligned right. What would break or reorder lines is escaped.
pub(super) fn table(rows: &[Vec<String>], right: &[usize]) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| visible(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let padded = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let blanks = " ".repeat(width - cell.chars().count());
            if right.contains(&column) { format!("{blanks}{cell}") } else { format!("{cell}{blanks}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines(rows.iter().map(padded))
}

/// A size as people read it: `1.4 GiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut scaled = bytes as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1023.95 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// A time as people read it, in UTC: `2026-11-20 03:00:00Z`.
pub(super) fn time(nanoseconds: i64) -> String {
    jiff::Timestamp::from_nanosecond(nanoseconds.into())
        .map_or_else(|_| "unknown".into(), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A time for programs, RFC 3339.
pub(super) fn rfc3339(nanoseconds: i64) -> String {
    jiff::Timestamp::from_nanosecond(nanoseconds.into())
        .map_or_else(|_| "unknown".into(), |time| time.to_string())
}

/// Puts bytes that may not be text into a document: under `key` as they are, if they are text; else escaped for people, and in hex under `key_hex`.
pub(super) fn put_bytes(document: &mut serde_json::Value, key: &str, bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        document[key] = escaped(bytes).into();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        document[format!("{key}_hex")] = hex.into();
        return;
    };
    document[key] = text.into();
}

/// Bytes that may not be text, shown so that nothing is lost: other bytes and control characters as `\xNN`.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if misleads(c) || c == '\\' { out.extend(c.escape_default()) } else { out.push(c) }
        }
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out
}

/// Whether a character breaks lines or changes the order in which others are shown. Those that join letters are left: names need them.
fn misleads(c: char) -> bool {
    let is_mark = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}');
    c.is_control() || is_mark || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text with such characters escaped.
fn visible(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if misleads(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Reads a size as people write it: `4096`, `64K`, `1.5MiB`, `2G`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let bad = || {
        format!(
            "{text:?} is no size; write a number of bytes, or with K, M, G or T behind it (powers of 1024)"
        )
    };
    let shift = match unit.trim().trim_end_matches("iB").trim_end_matches('B').to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(bad()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(bad);
    }
    let bytes = number.parse::<f64>().map_err(|_| bad())? * (1u64 << shift) as f64;
    if bytes.is_finite() && bytes < 1e18 { Ok(bytes as u64) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_both_ways() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(1 << 40), "1.0 TiB");
        assert_eq!(size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(size(u64::MAX), "16.0 EiB");
        for (text, bytes) in
            [("4096", 4096), ("64K", 65536), ("1.5MiB", 3 << 19), ("2G", 2 << 30), ("1 T", 1 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "K", "x", "1X", "-1", "99999999999T", "1e9"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn odd_bytes_are_shown_and_not_lost() {
        assert_eq!(escaped("/dev/Büro".as_bytes()), "/dev/Büro");
        assert_eq!(escaped(b"caf\xe9\n\\"), "caf\\xe9\\n\\\\");
        assert_eq!(escaped("a\u{202e}gpj\u{2066}.exe".as_bytes()), "a\\u{202e}gpj\\u{2066}.exe");
    }

    #[test]
    fn cells_of_tables_keep_their_line_and_order() {
        let marks = "\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}\n\u{1b}\u{2029}";
        let shown = "\\u{61c}\\u{200e}\\u{200f}\\u{202a}\\u{202e}\\u{2066}\\u{2069}\\n\\u{1b}\\u{2029}";
        assert_eq!(visible(marks), shown);
        let joined = "नि\u{200d}का \u{1f468}\u{200d}\u{1f469} a\u{200c}b C:\\x";
        assert_eq!(visible(joined), joined);
        assert_eq!(visible(&escaped(b"caf\xe9\n\\")), escaped(b"caf\xe9\n\\"), "once");
    }
}
