//! Format: figures as short texts.

/// A number of at most three digits with a unit: `0.5`, `12.3`, `1.24k`.
pub(super) fn short(value: f64) -> String {
    for (limit, unit) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value >= limit * 0.9995 {
            return format!("{}{unit}", digits(value / limit));
        }
    }
    match value {
        value if value <= 0.0 => "0".to_owned(),
        value if value < 0.01 => "<0.01".to_owned(),
        value => digits(value),
    }
}

fn digits(value: f64) -> String {
    let places = match value {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A rate: `12.3/s`.
pub(super) fn rate(value: f64) -> String {
    format!("{}/s", short(value))
}

/// A count with separators: `12,345`.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes: `12.3 MiB`.
pub(super) fn bytes(value: f64) -> String {
    for (exponent, unit) in [(4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")] {
        let size = 1024_f64.powi(exponent);
        if value >= size * 0.9995 {
            return format!("{} {unit}", digits(value / size));
        }
    }
    format!("{value:.0} B")
}

/// A latency: `0.4 ms`, `1.2 s`, or a dash.
pub(super) fn latency(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds >= 1.0 => format!("{} s", digits(seconds)),
        Some(seconds) => format!("{} ms", short(seconds * 1000.0)),
    }
}

/// A duration: `3d 4h`, `2h 5m`, `1m 20s`, `4s`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (1.., _, _) => format!("{days}d {hours}h"),
        (0, 1.., _) => format!("{hours}h {minutes}m"),
        (0, 0, 1..) => format!("{minutes}m {}s", whole % 60),
        (0, 0, 0) => format!("{whole}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let texts = [
            short(0.0),
            short(0.001),
            short(0.5),
            short(12.34),
            short(999.9),
            short(1_240.0),
            rate(5e6),
            count(1_234_567),
            count(12),
            bytes(1023.0),
            bytes(1536.0),
            bytes(3.0 * 1024.0 * 1024.0),
            latency(None),
            latency(Some(0.0004)),
            latency(Some(1.25)),
            duration(4.9),
            duration(80.0),
            duration(7500.0),
            duration(277_200.0),
        ];
        assert_eq!(
            texts,
            [
                "0",
                "<0.01",
                "0.5",
                "12.3",
                "1k",
                "1.24k",
                "5M/s",
                "1,234,567",
                "12",
                "1023 B",
                "1.5 KiB",
                "3 MiB",
                "-",
                "0.4 ms",
                "1.25 s",
                "4s",
                "1m 20s",
                "2h 5m",
                "3d 5h"
            ]
        );
    }
}
