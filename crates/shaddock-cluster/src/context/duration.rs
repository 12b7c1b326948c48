//! Go's text for durations: `1m0s`, `1.5s`, `300ms`.

use std::time::Duration;

/// Reads a duration text; the result is in nanoseconds and may be negative.
///
/// Nothing if the text is not a sign, then numbers with a unit (`ns`, `us`, `µs`, `ms`, `s`, `m`, `h`), or `0`; or does not
/// fit into 64 bits.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let unit = unit_nanos(&after[..end])?;
        rest = &after[end..];
        // More than 19 digits cannot fit anyway.
        if whole.len() > 19 {
            return None;
        }
        total += whole.parse::<u128>().unwrap_or(0) * unit;
        total += fraction_nanos(fraction, unit);
        if total > 1 << 63 {
            return None;
        }
    }
    let total = i128::try_from(total).ok()?;
    i64::try_from(if negative { -total } else { total }).ok()
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

fn fraction_nanos(fraction: &str, unit: u128) -> u128 {
    let mut value = 0;
    let mut scale = unit;
    // The largest unit has 13 digits; what is finer than a nanosecond is cut off.
    let mut numerator: u128 = 0;
    let mut denominator: u128 = 1;
    for digit in fraction.bytes().take(18) {
        numerator = numerator * 10 + u128::from(digit - b'0');
        denominator *= 10;
    }
    if denominator > 1 {
        scale *= numerator;
        value = scale / denominator;
    }
    value
}

/// A duration as Go prints it.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos().min(i64::MAX as u128);
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        let (unit, name) = match nanos {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "\u{b5}s"),
            _ => (1_000_000, "ms"),
        };
        return format!("{}{name}", decimal(nanos, unit));
    }
    let minutes = nanos / 60_000_000_000;
    let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// A number of units without trailing zeros in its fraction.
fn decimal(nanos: u128, unit: u128) -> String {
    let width = unit.ilog10() as usize;
    let fraction = nanos % unit;
    if fraction == 0 {
        return (nanos / unit).to_string();
    }
    let fraction = format!("{fraction:0width$}");
    format!("{}.{}", nanos / unit, fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_at_the_edge_of_64_bits() {
        assert_eq!(parse_duration("9223372036854775807ns"), Some(i64::MAX));
        assert_eq!(parse_duration("-9223372036854775808ns"), Some(i64::MIN));
        assert_eq!(parse_duration("9223372036854775808ns"), None);
        assert_eq!(parse_duration("99999999999999999999h"), None);
        assert_eq!(
            parse_duration("0.1234567891234567891234s"),
            Some(123_456_789)
        );
        assert_eq!(parse_duration("1h-1m"), None);
    }

    #[test]
    fn what_is_printed_reads_back() {
        for nanos in [
            1,
            999,
            1_000,
            1_500,
            999_999,
            1_000_000,
            59_999_999_999,
            3_600_000_000_000,
            90_061_000_000_001,
        ] {
            let text = format_duration(Duration::from_nanos(nanos));
            assert_eq!(
                parse_duration(&text),
                Some(i64::try_from(nanos).unwrap()),
                "{text}"
            );
        }
    }
}
