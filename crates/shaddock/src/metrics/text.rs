//! The OpenMetrics text format. Metrics are read at the moment of a scrape, so a page is written from the values themselves.

use std::fmt::{self, Write as _};

/// Names and values.
pub(super) type Labels<'a> = Vec<(&'a str, &'a str)>;

/// The type of a family.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The metrics of one name. Their labels differ.
#[derive(Debug)]
pub(super) struct Family<'a> {
    out: &'a mut String,
    name: String,
}

impl<'a> Family<'a> {
    /// Writes the head of a family, whose metrics follow.
    pub(super) fn begin(out: &'a mut String, name: String, help: &str, kind: Kind) -> Self {
        for (what, text) in [("HELP", help), ("TYPE", kind.name())] {
            // Writing to a String does not fail, here and below.
            let text = text.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = writeln!(out, "# {what} {name} {text}");
        }
        Self { out, name }
    }

    pub(super) fn counter(&mut self, labels: &Labels<'_>, value: impl fmt::Display) {
        self.line("_total", None, labels, value);
    }

    pub(super) fn gauge(&mut self, labels: &Labels<'_>, value: impl fmt::Display) {
        self.line("", None, labels, value);
    }

    /// Sum, count, and the number of values in each bucket with its upper bound, in ascending order.
    pub(super) fn histogram(
        &mut self,
        labels: &Labels<'_>,
        (sum, count, buckets): (f64, u64, Vec<(f64, u64)>),
    ) {
        self.line("_sum", None, labels, Float(sum));
        self.line("_count", None, labels, count);
        let mut within = 0;
        for (bound, values) in buckets {
            within += values;
            self.line("_bucket", Some(Float(bound)), labels, within);
        }
    }

    fn line(
        &mut self,
        suffix: &str,
        bound: Option<Float>,
        labels: &Labels<'_>,
        value: impl fmt::Display,
    ) {
        self.out.push_str(&self.name);
        self.out.push_str(suffix);
        let mut before = '{';
        if let Some(bound) = bound {
            let _ = write!(self.out, "{before}le=\"{bound}\"");
            before = ',';
        }
        for (name, value) in labels {
            let _ = write!(self.out, "{before}{name}=\"");
            escape(self.out, value);
            self.out.push('"');
            before = ',';
        }
        if before == ',' {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
}

fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

/// A number with a fraction, as the format writes it. Bounds of buckets are labels, so their form must not change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Float(pub(super) f64);

impl fmt::Display for Float {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0;
        if number.is_infinite() {
            out.write_str(if number > 0.0 { "+Inf" } else { "-Inf" })
        } else if (1e-6..1e-4).contains(&number.abs()) {
            // `Debug` writes them with an exponent.
            write!(out, "{number}")
        } else {
            write!(out, "{number:?}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_a_head_and_a_line_for_each_metric() {
        let mut out = String::new();
        let mut family = Family::begin(&mut out, "a_b".into(), "One\\two\nthree", Kind::Counter);
        family.counter(&vec![("server", "s-1"), ("reason", "\"a\\\n")], 7);
        family.counter(&Vec::new(), 8);
        Family::begin(&mut out, "c".into(), "Empty", Kind::Gauge);
        assert_eq!(
            out,
            "# HELP a_b One\\\\two\\nthree\n# TYPE a_b counter\n\
             a_b_total{server=\"s-1\",reason=\"\\\"a\\\\\\n\"} 7\na_b_total 8\n\
             # HELP c Empty\n# TYPE c gauge\n"
        );
    }

    #[test]
    fn buckets_are_cumulative() {
        let mut out = String::new();
        let buckets = vec![(0.000_01, 2), (0.5, 1), (10.0, 0), (f64::INFINITY, 4)];
        Family::begin(&mut out, "h".into(), "", Kind::Histogram)
            .histogram(&vec![("server", "s")], (1.0, 7, buckets));
        let lines: Vec<&str> = out.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                r#"h_sum{server="s"} 1.0"#,
                r#"h_count{server="s"} 7"#,
                r#"h_bucket{le="0.00001",server="s"} 2"#,
                r#"h_bucket{le="0.5",server="s"} 3"#,
                r#"h_bucket{le="10.0",server="s"} 3"#,
                r#"h_bucket{le="+Inf",server="s"} 7"#,
            ]
        );
    }

    #[test]
    fn numbers_have_the_form_of_the_format() {
        for (number, text) in [
            (0.0, "0.0"),
            (1e-7, "1e-7"),
            (0.000_025, "0.000025"),
            (-0.000_1, "-0.0001"),
            (1_764_000_000.5, "1764000000.5"),
            (1e21, "1e21"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(Float(number).to_string(), text);
        }
    }
}
