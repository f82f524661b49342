//! Text format: metrics as a scraper reads them: Prometheus' text format 0.0.4, or OpenMetrics 1.0.
//!
//! They differ in a few places. OpenMetrics names the family of a counter without `_total`, writes
//! the unit, has bounds that are always floats, and ends with `# EOF`, so that a reply that was cut
//! off is noticed. It has no `_created` series: a scraper that does not expect them stores each as
//! a series of its own.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::SystemTime;

use super::histogram::{Exemplar, HistogramValue};
use super::metric::Kind;
use super::snapshot::{Family, Series, Snapshot, Value};

/// The units that a metric's name may end with.
const UNITS: [&str; 3] = ["seconds", "bytes", "ratio"];

/// How metrics are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TextFormat {
    /// Prometheus' text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl TextFormat {
    /// Returns the format that a scraper prefers, by its `Accept` fields; Prometheus' without a
    /// preference.
    pub(crate) fn preferred<'f>(accept: impl Iterator<Item = &'f [u8]>) -> Self {
        let (mut open_metrics, mut prometheus) = (0, 0);
        let fields = accept.filter_map(|field| std::str::from_utf8(field).ok());
        for range in fields.flat_map(|field| field.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let (mut version, mut weight) = (None, 1_000);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim() {
                    "version" => version = Some(value.trim().trim_matches('"')),
                    "q" => weight = thousandths(value.trim()),
                    _ => {}
                }
            }
            if media_type.eq_ignore_ascii_case("application/openmetrics-text")
                && version.is_none_or(|version| version == "1.0.0")
            {
                open_metrics = open_metrics.max(weight);
            } else if media_type.eq_ignore_ascii_case("text/plain")
                && version.is_none_or(|version| version == "0.0.4")
            {
                prometheus = prometheus.max(weight);
            }
        }
        match open_metrics > 0 && open_metrics >= prometheus {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    /// Returns the media type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Parses a weight of `Accept` (RFC 9110 §12.4.2); 0 if it is none.
fn thousandths(weight: &str) -> u32 {
    let weight: f64 = weight.parse().unwrap_or(0.0);
    (weight.clamp(0.0, 1.0) * 1_000.0) as u32
}

/// Writes metrics in pieces.
#[derive(Debug)]
pub(crate) struct Pieces<'s> {
    snapshot: &'s Snapshot,
    format: TextFormat,
    /// The family that is written, and its series from which it goes on.
    family: usize,
    series: usize,
}

impl Snapshot {
    /// Writes all metrics.
    #[must_use]
    pub fn to_text(&self, format: TextFormat) -> String {
        let mut text = String::new();
        self.pieces(format).write_next(usize::MAX, &mut text);
        text
    }

    /// Returns what writes all metrics in pieces.
    pub(crate) fn pieces(&self, format: TextFormat) -> Pieces<'_> {
        Pieces {
            snapshot: self,
            format,
            family: 0,
            series: 0,
        }
    }
}

impl Pieces<'_> {
    /// Writes until the text has at least `bytes` more. Returns whether to go on.
    pub(crate) fn write_next(&mut self, bytes: usize, text: &mut String) -> bool {
        let start = text.len();
        while let Some(family) = self.snapshot.families.get(self.family) {
            if self.series == 0 {
                write_head(text, family, self.format);
            }
            let name = sample_name(family, self.format);
            let mut labels = String::new();
            while let Some(series) = family.series.get(self.series) {
                labels.clear();
                write_labels(&mut labels, series);
                write_series(text, &name, &labels, series, self.format);
                self.series += 1;
                if text.len() - start >= bytes {
                    return true;
                }
            }
            (self.family, self.series) = (self.family + 1, 0);
        }
        if self.format == TextFormat::OpenMetrics {
            text.push_str("# EOF\n");
        }
        false
    }
}

/// Returns the name of a family's samples.
fn sample_name(family: &Family, format: TextFormat) -> String {
    let title = title(family, format);
    match (format, family.kind) {
        (TextFormat::OpenMetrics, Kind::Counter) => format!("{title}_total"),
        _ => title.into_owned(),
    }
}

/// Returns the name of a family.
fn title(family: &Family, format: TextFormat) -> Cow<'_, str> {
    let name = legal_name(&family.name);
    match (format, family.kind) {
        (TextFormat::OpenMetrics, Kind::Counter) => match name.strip_suffix("_total") {
            Some(title) => title.to_owned().into(),
            None => name,
        },
        _ => name,
    }
}

// Writing into a `String` cannot fail, so the results are dropped.
fn write_head(text: &mut String, family: &Family, format: TextFormat) {
    let title = title(family, format);
    let _ = writeln!(text, "# HELP {title} {}", Escaped(&family.help, format));
    let _ = writeln!(text, "# TYPE {title} {}", family.kind.as_str());
    if format == TextFormat::OpenMetrics
        && let Some(unit) = unit(&title)
    {
        let _ = writeln!(text, "# UNIT {title} {unit}");
    }
}

fn write_series(text: &mut String, name: &str, labels: &str, series: &Series, format: TextFormat) {
    match &series.value {
        Value::Number(number) => {
            text.push_str(name);
            if !labels.is_empty() {
                let _ = write!(text, "{{{labels}}}");
            }
            let _ = writeln!(text, " {}", Number(*number));
        }
        Value::Histogram(values) => write_histogram(text, name, labels, values, format),
    }
}

fn write_histogram(
    text: &mut String,
    name: &str,
    labels: &str,
    values: &HistogramValue,
    format: TextFormat,
) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut total = 0;
    for (index, count) in values.counts.iter().enumerate() {
        total += count;
        let _ = write!(text, "{name}_bucket{{{labels}{comma}le=\"");
        let _ = match (values.bounds.get(index), format) {
            (None, _) => write!(text, "+Inf"),
            (Some(bound), TextFormat::OpenMetrics) => write!(text, "{bound:?}"),
            (Some(bound), TextFormat::Prometheus) => write!(text, "{bound}"),
        };
        let _ = write!(text, "\"}} {total}");
        if format == TextFormat::OpenMetrics
            && let Some(Some(exemplar)) = values.exemplars.get(index)
        {
            write_exemplar(text, exemplar);
        }
        text.push('\n');
    }
    let labels = match labels {
        "" => String::new(),
        labels => format!("{{{labels}}}"),
    };
    let _ = writeln!(text, "{name}_sum{labels} {}", Number(values.sum));
    let _ = writeln!(text, "{name}_count{labels} {total}");
}

fn write_exemplar(text: &mut String, exemplar: &Exemplar) {
    let Exemplar {
        trace_id,
        value,
        at,
    } = exemplar;
    let at = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let _ = write!(text, " # {{trace_id=\"{trace_id}\"}} {value} {at:.3}");
}

fn write_labels(text: &mut String, series: &Series) {
    for (name, value) in series.labels() {
        if !text.is_empty() {
            text.push(',');
        }
        let _ = write!(text, "{}=\"", legal_name(name));
        for letter in value.chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
}

/// Returns the unit that a name ends with.
fn unit(name: &str) -> Option<&'static str> {
    let ends_with = |unit: &str| {
        let before = name.strip_suffix(unit);
        before.is_some_and(|before| before.ends_with('_'))
    };
    UNITS.into_iter().find(|unit| ends_with(unit))
}

/// Returns a name of an application as the formats allow it: letters, digits and `_`.
fn legal_name(name: &str) -> Cow<'_, str> {
    let is_legal = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let is_first = |letter: char| letter.is_ascii_alphabetic() || letter == '_';
    if name.chars().all(is_legal) && name.chars().next().is_some_and(is_first) {
        return name.into();
    }
    let mut legal = String::new();
    if !name.chars().next().is_some_and(is_first) {
        legal.push('_');
    }
    legal.extend(
        name.chars()
            .map(|letter| if is_legal(letter) { letter } else { '_' }),
    );
    legal.into()
}

/// The text of `# HELP`.
struct Escaped<'h>(&'h str, TextFormat);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if self.1 == TextFormat::OpenMetrics => f.write_str("\\\"")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// A value, whose infinities and NaN have the names of the formats.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            number => write!(f, "{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metrics::{Key, Label};

    use super::*;

    fn preferred(accept: &str) -> TextFormat {
        TextFormat::preferred([accept.as_bytes()].into_iter())
    }

    fn snapshot(name: &str, kind: Kind, labels: Vec<Label>, value: Value) -> Snapshot {
        let series = Series::new(Key::from_parts(name.to_owned(), labels), value);
        Snapshot {
            families: vec![Family {
                name: name.to_owned(),
                kind,
                help: "Says \"it\"\\ \nagain.".to_owned(),
                series: vec![series],
            }],
        }
    }

    #[test]
    fn format_is_the_one_that_the_scraper_prefers() {
        for accept in [
            "",
            "*/*",
            "text/plain",
            "text/html, application/json",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.75",
            "application/openmetrics-text;q=much",
            "\u{0}",
        ] {
            assert_eq!(preferred(accept), TextFormat::Prometheus, "{accept}");
        }
        for accept in [
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; version=\"1.0.0\"; charset=utf-8",
            // Prometheus 2.53 and 3.5.
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        ] {
            assert_eq!(preferred(accept), TextFormat::OpenMetrics, "{accept}");
        }
    }

    #[test]
    fn counter_has_its_labels_escaped() {
        let labels = vec![
            Label::new("route", "a \"b\"\\\n"),
            Label::new("class", "2xx"),
        ];
        let found = snapshot("requests_total", Kind::Counter, labels, Value::Number(3.0));
        let series = "requests_total{route=\"a \\\"b\\\"\\\\\\n\",class=\"2xx\"} 3\n";
        assert_eq!(
            found.to_text(TextFormat::Prometheus),
            format!(
                "# HELP requests_total Says \"it\"\\\\ \\nagain.\n# TYPE requests_total counter\n{series}"
            )
        );
        assert_eq!(
            found.to_text(TextFormat::OpenMetrics),
            format!(
                "# HELP requests Says \\\"it\\\"\\\\ \\nagain.\n# TYPE requests counter\n{series}# EOF\n"
            )
        );
    }

    #[test]
    fn buckets_of_a_histogram_include_those_below() {
        let value = HistogramValue {
            bounds: &[0.5, 1.0],
            counts: vec![2, 0, 1],
            sum: 8.5,
            exemplars: vec![
                None,
                None,
                Some(Exemplar {
                    trace_id: "ab12".to_owned(),
                    value: 7.5,
                    at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
                }),
            ],
        };
        let found = snapshot(
            "wait_seconds",
            Kind::Histogram,
            vec![Label::new("route", "x")],
            Value::Histogram(value),
        );
        let text = found.to_text(TextFormat::OpenMetrics);
        let (_, text) = text.split_once("# UNIT wait_seconds seconds\n").unwrap();
        assert_eq!(
            text,
            "wait_seconds_bucket{route=\"x\",le=\"0.5\"} 2\n\
             wait_seconds_bucket{route=\"x\",le=\"1.0\"} 2\n\
             wait_seconds_bucket{route=\"x\",le=\"+Inf\"} 3 # {trace_id=\"ab12\"} 7.5 1.500\n\
             wait_seconds_sum{route=\"x\"} 8.5\nwait_seconds_count{route=\"x\"} 3\n# EOF\n"
        );
        let text = found.to_text(TextFormat::Prometheus);
        assert!(text.contains("wait_seconds_bucket{route=\"x\",le=\"1\"} 2\n"));
        assert!(!text.contains("# UNIT") && !text.contains("trace_id"));
    }

    #[test]
    fn pieces_are_the_whole_text() {
        let labels = vec![Label::new("route", "x")];
        let mut found = snapshot("a_total", Kind::Counter, labels.clone(), Value::Number(1.0));
        let other = snapshot("b", Kind::Gauge, labels, Value::Number(2.0));
        let more = found.families[0].series[0].clone();
        found.families[0].series.extend(vec![more; 50]);
        found.families.extend(other.families);
        for format in [TextFormat::Prometheus, TextFormat::OpenMetrics] {
            let whole = found.to_text(format);
            for bytes in [1, 100, 1_000, 100_000] {
                let mut pieces = found.pieces(format);
                let (mut text, mut count) = (String::new(), 1);
                while pieces.write_next(bytes, &mut text) {
                    count += 1;
                }
                assert_eq!(text, whole);
                assert_eq!(count > 1, bytes < whole.len(), "{bytes}");
            }
        }
    }

    #[test]
    fn names_and_numbers_of_an_application_become_legal() {
        for (number, text) in [
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
            (1e15, "1000000000000000"),
            (0.25, "0.25"),
        ] {
            let found = snapshot("my.gauge", Kind::Gauge, vec![], Value::Number(number));
            let found = found.to_text(TextFormat::Prometheus);
            assert!(found.ends_with(&format!("\nmy_gauge {text}\n")), "{found}");
        }
        assert_eq!(legal_name("9lives"), "_9lives");
        assert_eq!(legal_name(""), "_");
    }
}
