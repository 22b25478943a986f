//! What the commands print: tables and durations for people, JSON for programs.

use std::io::Write as _;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use serde_json::Value;

/// Prints a line, as `println!` does, but ends quietly when nobody reads any more (`| head`).
macro_rules! say {
    ($($arg:tt)*) => { $crate::output::line(format_args!($($arg)*)) };
}
pub(crate) use say;

pub(crate) fn line(text: std::fmt::Arguments<'_>) {
    raw(format!("{text}\n").as_bytes());
}

/// Prints bytes as they are; ends quietly as [`say`] does.
pub(crate) fn raw(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// The exit code of a command that failed.
pub(crate) const FAILED: u8 = 1;
/// The exit code of a command that was wrongly put.
pub(crate) const BAD_USAGE: u8 = 2;

/// A command that was wrongly put, in a way that only shows beyond its flags.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Says on standard error why the program ends, and with which exit code.
pub(crate) fn failed(error: &anyhow::Error, code: u8) -> std::process::ExitCode {
    // Nothing is lost where nobody reads it.
    let _ = writeln!(std::io::stderr(), "warren: {}", explain(error));
    std::process::ExitCode::from(code)
}

/// An error with its causes, none of them twice: some errors name theirs themselves.
fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Prints a value as one JSON document.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string_pretty(&rounded(serde_json::to_value(value)?))?);
    Ok(())
}

/// Fractions to three places: of milliseconds, which is what they are, that is microseconds.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => ((float * 1e3).round() / 1e3).into(),
            Some(_) | None => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(rounded).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, rounded(value))).collect()
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value,
    }
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
    say!("{}", serde_json::to_string(&rounded(serde_json::to_value(value)?))?);
    Ok(())
}

/// A text in lines of at most 76 columns, each begun with `indent`.
pub(crate) fn wrapped(text: &str, indent: &str) -> String {
    const WIDTH: usize = 76;
    let mut lines = vec![indent.to_owned()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().filter(|line| {
            line.as_str() == indent || line.chars().count() + 1 + word.chars().count() <= WIDTH
        });
        match last {
            Some(line) => {
                if line.as_str() != indent {
                    line.push(' ');
                }
                line.push_str(word);
            }
            None => lines.push(format!("{indent}{word}")),
        }
    }
    lines.join("\n")
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
    for line in table_lines(table) {
        say!("{line}");
    }
}

/// A table's lines without trailing blanks, the heading first.
pub(crate) fn table_lines(table: &Table) -> Vec<String> {
    let text = table.to_string();
    text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned()).collect()
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
    fn a_cause_that_is_named_already_is_not_named_again() {
        let system = || std::io::Error::from_raw_os_error(17);
        let error = anyhow::Error::new(system()).context(format!("b1: {}", system()));
        assert_eq!(explain(&error), "b1: File exists (os error 17)");
        let error = anyhow::Error::new(system()).context("can't write b1");
        assert_eq!(explain(&error), "can't write b1: File exists (os error 17)");
    }

    #[test]
    fn json_has_microseconds_and_whole_numbers_stay_whole() {
        let value = serde_json::json!({ "rtt_ms": 41.807_123_456, "bytes": 12, "of": [0.1 + 0.2] });
        let text = rounded(value).to_string();
        assert_eq!(text, r#"{"bytes":12,"of":[0.3],"rtt_ms":41.807}"#);
    }

    #[test]
    fn text_is_broken_between_words() {
        let text = wrapped(&"word ".repeat(40), "    ");
        assert!(text.lines().all(|line| line.starts_with("    word") && line.len() <= 76));
        assert_eq!(text.split_whitespace().count(), 40);
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
