//! Output for people: tables, ages, sizes.

/// A line, or lines, on standard output.
pub(super) fn print_line(text: &str) {
    use std::io::Write as _;
    // A pipe that is closed wants no more, and that is no mistake.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n'));
}

/// Rows under a head, in columns.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut all = vec![head.map(str::to_owned)];
    all.extend(rows);
    let widths: Vec<usize> = (0..N)
        .map(|column| {
            let cells = all.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        })
        .collect();
    let mut out = String::new();
    for row in &all {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// `-` for what is not known.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Users choose their names, and others their servers'; a terminal must not obey them.
pub(super) fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) {
        return text.escape_debug().to_string();
    }
    text.to_owned()
}

/// JSON as a terminal may have it: between spaces and line ends, control characters stand in strings only, and `serde_json` leaves
/// U+007F to U+009F as they are.
pub(super) fn printable_json(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            // A control character is below U+00A0, so four digits always hold it.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// `1 session`, `2 sessions`.
pub(super) fn count(n: u64, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural}")
}

pub(super) fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let (mut whole, mut tenths, mut unit) = (n, 0, 0);
    while whole >= 1000 && unit + 1 < UNITS.len() {
        tenths = whole % 1000 / 100;
        whole /= 1000;
        unit += 1;
    }
    match unit {
        0 => format!("{whole} B"),
        _ => format!("{whole}.{tenths} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_can_read_it() {
        assert_eq!(
            [age(5_999), age(61_000), age(3_660_000), age(90_000_000)],
            ["5s", "1m01s", "1h01m", "1d01h"]
        );
        assert_eq!(
            [bytes(999), bytes(1_250), bytes(12_345_678)],
            ["999 B", "1.2 KB", "12.3 MB"]
        );
        assert_eq!(printable("a\u{1b}[31m"), "a\\u{1b}[31m");
        assert_eq!(
            printable_json("{\n  \"a\": \"\u{9b}31m\u{7f}\"}"),
            "{\n  \"a\": \"\\u009b31m\\u007f\"}"
        );
        assert_eq!(
            count(1, "session") + &count(0, "server"),
            "1 session0 servers"
        );
        let rows = [["1".to_owned(), "2".to_owned()]];
        assert_eq!(table(["LONG", "B"], rows), "LONG  B\n1     2\n");
    }
}
