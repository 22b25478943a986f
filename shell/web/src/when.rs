//! Moments as people say them.

use std::fmt;

use time::OffsetDateTime;
use time::macros::format_description;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A moment as seen from another one: `3 min ago`, with the exact time for who wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    /// Seconds since the Unix epoch.
    pub at: u64,
    /// The same, of the moment that it is seen from.
    pub now: u64,
}

impl When {
    /// For a `<time>`: `2026-11-21T05:00:00Z`.
    pub fn exact(&self) -> String {
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        moment(self.at).and_then(|at| at.format(format).ok()).unwrap_or_default()
    }

    /// For a person who wants to know exactly: `21 Nov 2026, 05:00:00 UTC`.
    pub fn spelled(&self) -> String {
        let format = format_description!(
            "[day padding:none] [month repr:short] [year], [hour]:[minute]:[second] UTC"
        );
        moment(self.at).and_then(|at| at.format(format).ok()).unwrap_or_default()
    }
}

/// `3 min ago`, `in 2 days`.
impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.now.checked_sub(self.at) {
            Some(0..5) => f.write_str("just now"),
            Some(past) => write!(f, "{} ago", since(past)),
            None => write!(f, "in {}", since(self.at - self.now)),
        }
    }
}

/// A span in its largest unit: `40 s`, `3 min`, `5 h`, `2 days`.
pub fn since(seconds: u64) -> String {
    let many = |n: u64, unit: &str| match n {
        1 => format!("1 {unit}"),
        n => format!("{n} {unit}s"),
    };
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => format!("{} h", seconds / HOUR),
        _ if seconds < 60 * DAY => many(seconds / DAY, "day"),
        _ if seconds < 730 * DAY => format!("{} months", seconds / (30 * DAY)),
        _ => format!("{} years", seconds / (365 * DAY)),
    }
}

/// A day: `21 Nov 2026`.
pub fn calendar(at: u64) -> String {
    let format = format_description!("[day padding:none] [month repr:short] [year]");
    moment(at).and_then(|at| at.format(format).ok()).unwrap_or_default()
}

fn moment(seconds: u64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_said_as_people_say_them() {
        let now = 1_795_237_200;
        let say = |at| When { at, now }.to_string();
        assert_eq!(say(now), "just now");
        assert_eq!(say(now - 59), "59 s ago");
        assert_eq!(say(now - 119), "1 min ago");
        assert_eq!(say(now - 5 * HOUR), "5 h ago");
        assert_eq!(say(now - DAY), "1 day ago");
        assert_eq!(say(now - 59 * DAY), "59 days ago");
        assert_eq!(say(now + 3 * DAY), "in 3 days");
        assert_eq!(say(0), "56 years ago");
        let when = When { at: now, now };
        assert_eq!(when.exact(), "2026-11-21T05:00:00Z");
        assert_eq!(when.spelled(), "21 Nov 2026, 05:00:00 UTC");
        assert_eq!(calendar(now), "21 Nov 2026");
        assert_eq!(When { at: u64::MAX, now }.exact(), "");
    }
}
