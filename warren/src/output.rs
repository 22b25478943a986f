//! What the commands print: tables and durations for people, JSON for programs.

use std::io::Write as _;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

/// Prints a line, as `println!` does, but ends quietly when nobody reads any more (`| head`).
macro_rules! say {
    ($($arg:tt)*) => { $crate::output::line(format_args!($($arg)*)) };
}
pub(crate) use say;

pub(crate) fn line(text: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// Prints a value as one JSON document.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints that something is done.
pub(crate) fn done(json_wanted: bool, text: &str) -> anyhow::Result<()> {
    if json_wanted {
        return json(&serde_json::json!({ "done": text }));
    }
    say!("{text}");
    Ok(())
}

/// Prints a value as one line of JSON, for streams.
pub(crate) fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string(value)?);
    Ok(())
}

/// A borderless table with a heading.
pub(crate) fn table(heading: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heading.to_vec());
    table
}

/// Prints a table without trailing blanks.
pub(crate) fn print_table(table: &Table) {
    for line in table.to_string().lines() {
        say!("{}", line.strip_prefix(' ').unwrap_or(line).trim_end());
    }
}

/// A duration in its largest sensible unit: `41s`, `12m`, `3h`, `9d`.
pub(crate) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        86_400.. => format!("{}d", seconds / 86_400),
    }
}

/// A byte count in binary units: `812 B`, `1.4 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Reads `30s`, `15m`, `24h`, `7d` or a number of seconds.
///
/// # Errors
/// What a duration looks like.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => 0,
    };
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)) {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        Some(_) | None => Err(format!("'{text}' isn't a duration: use e.g. 30m, 24h or 7d")),
    }
}

/// Reads `1800ms`, `1.8s`, or what [`parse_duration`] reads.
///
/// # Errors
/// What a duration looks like.
#[cfg(feature = "relay")]
pub(crate) fn parse_short_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds = number.parse::<f64>().ok().map(|number| number * unit);
    match seconds.map(Duration::try_from_secs_f64) {
        Some(Ok(duration)) if duration >= Duration::from_millis(1) => Ok(duration),
        Some(_) | None => parse_duration(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "relay")]
    fn short_durations_may_have_fractions() {
        for (text, ms) in [("1800ms", 1800), ("1.8s", 1800), ("1.8", 1800), ("30s", 30_000)] {
            assert_eq!(parse_short_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse_short_duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "0", "-1s", "0.1ms", "infs", "NaN", "ms", "1e99"] {
            assert!(parse_short_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, seconds) in [("90", 90), ("30m", 1_800), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "0", "-1h", "1y", "h", "99999999999999999999d", "1.5h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_and_ages_are_short() {
        assert_eq!(bytes(812), "812 B");
        assert_eq!(bytes(1_500_000), "1.4 MiB");
        assert_eq!(age(Duration::from_secs(59)), "59s");
        assert_eq!(age(Duration::from_secs(7_200)), "2h");
    }
}
