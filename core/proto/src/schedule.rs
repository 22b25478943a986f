//! Hours of a week.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

const DAY: i64 = 24 * 60 * 60;

/// The farthest that local time is from UTC, in minutes: UTC+14 on the Line Islands.
pub const MAX_UTC_OFFSET: i16 = 14 * 60;

/// A text was no time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a time of day is written '08:00'")]
pub struct ParseTimeOfDayError;

/// A text was no hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "hours are written '08:00-18:00', or with days and the offset of local time 'mon,tue@08:00-18:00+01:00'"
)]
pub struct ParseScheduleError;

/// Hours in which something is in force, of some days of the week or all. Daylight saving time is not
/// known here: a place that has it has another offset in summer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The days on which the hours begin. Empty: all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub days: BTreeSet<Weekday>,
    /// From when on.
    pub from: TimeOfDay,
    /// Until when; if that is not later than `from`, on the day after.
    pub to: TimeOfDay,
    /// How much local time is ahead of UTC, in minutes.
    #[serde(default)]
    pub utc_offset_minutes: i16,
}

/// Reads hours out of a netmap, where a newer broker may have said more: as elsewhere in one, what isn't
/// known is ignored. (People's own hours are read strictly: a typing error would open too much.)
pub(crate) fn from_netmap<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Schedule>, D::Error> {
    #[derive(Deserialize)]
    struct Known {
        #[serde(default)]
        days: BTreeSet<Weekday>,
        from: TimeOfDay,
        to: TimeOfDay,
        #[serde(default)]
        utc_offset_minutes: i16,
    }
    let known = Option::<Known>::deserialize(deserializer)?;
    Ok(known.map(|Known { days, from, to, utc_offset_minutes }| Schedule {
        days,
        from,
        to,
        utc_offset_minutes,
    }))
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Weekday {
    /// Monday.
    Monday,
    /// Tuesday.
    Tuesday,
    /// Wednesday.
    Wednesday,
    /// Thursday.
    Thursday,
    /// Friday.
    Friday,
    /// Saturday.
    Saturday,
    /// Sunday.
    Sunday,
}

impl Weekday {
    const ALL: [Self; 7] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
        Self::Saturday,
        Self::Sunday,
    ];

    /// Its name in three letters.
    fn short(self) -> &'static str {
        match self {
            Self::Monday => "mon",
            Self::Tuesday => "tue",
            Self::Wednesday => "wed",
            Self::Thursday => "thu",
            Self::Friday => "fri",
            Self::Saturday => "sat",
            Self::Sunday => "sun",
        }
    }

    fn from_short(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|day| day.short() == text)
    }

    /// The day of the week of a day since 1970-01-01, a Thursday.
    fn of(day: i64) -> Self {
        Self::ALL[usize::try_from((day + 3).rem_euclid(7)).unwrap_or(0)]
    }
}

/// A time of day, in minutes since midnight; below 1,440.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    fn seconds(self) -> i64 {
        i64::from(self.0) * 60
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl fmt::Debug for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for TimeOfDay {
    type Err = ParseTimeOfDayError;

    fn from_str(s: &str) -> Result<Self, ParseTimeOfDayError> {
        let number = |text: &str| match text.len() {
            2 if text.bytes().all(|digit| digit.is_ascii_digit()) => text.parse::<u16>().ok(),
            _ => None,
        };
        let (hours, minutes) = s.split_once(':').ok_or(ParseTimeOfDayError)?;
        match (number(hours), number(minutes)) {
            (Some(hours @ 0..24), Some(minutes @ 0..60)) => Ok(Self(hours * 60 + minutes)),
            _ => Err(ParseTimeOfDayError),
        }
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = ParseTimeOfDayError;

    fn try_from(s: String) -> Result<Self, ParseTimeOfDayError> {
        s.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for TimeOfDay {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TimeOfDay".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A time of day, as 08:00.",
            "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"
        })
    }
}

impl Schedule {
    /// Whether a moment, in seconds since the Unix epoch, is within the hours.
    pub fn is_open(&self, unix: u64) -> bool {
        let local = self.local(unix);
        let (day, second) = (local.div_euclid(DAY), local.rem_euclid(DAY));
        let (from, to) = (self.from.seconds(), self.to.seconds());
        if from < to {
            return self.has(day) && (from..to).contains(&second);
        }
        (second >= from && self.has(day)) || (second < to && self.has(day - 1))
    }

    /// The next moment at which that changes; `None`: never.
    pub fn next_change(&self, unix: u64) -> Option<u64> {
        let is_open = self.is_open(unix);
        let today = self.local(unix).div_euclid(DAY);
        let offset = i64::from(self.utc_offset_minutes) * 60;
        let mut edges = [self.from.seconds(), self.to.seconds()];
        edges.sort_unstable();
        let moments = (0..=8).flat_map(|day| edges.map(|at| (today + day) * DAY + at - offset));
        let mut moments = moments.filter_map(|moment| u64::try_from(moment).ok());
        moments.find(|moment| *moment > unix && self.is_open(*moment) != is_open)
    }

    /// For people, within a sentence: `mon, tue 08:00 to 18:00 (UTC+01:00)`.
    pub fn in_words(&self) -> String {
        let days: Vec<&str> = self.days.iter().map(|day| day.short()).collect();
        let days = if days.is_empty() { "daily".to_owned() } else { days.join(", ") };
        let offset = self.offset();
        let offset = if offset.is_empty() { "+00:00" } else { &offset };
        format!("{days} {} to {} (UTC{offset})", self.from, self.to)
    }

    /// How much local time is ahead of UTC; nothing where it is the same.
    fn offset(&self) -> String {
        let minutes = self.utc_offset_minutes.unsigned_abs();
        match self.utc_offset_minutes {
            0 => String::new(),
            ahead => {
                let sign = if ahead < 0 { '-' } else { '+' };
                format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        }
    }

    fn has(&self, day: i64) -> bool {
        self.days.is_empty() || self.days.contains(&Weekday::of(day))
    }

    fn local(&self, unix: u64) -> i64 {
        i64::try_from(unix).unwrap_or(i64::MAX / 2) + i64::from(self.utc_offset_minutes) * 60
    }
}

/// As [`FromStr`] reads it: `mon,tue@08:00-18:00+01:00`; without days every day, without an offset UTC.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, day) in self.days.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { "" } else { "," }, day.short())?;
        }
        let at = if self.days.is_empty() { "" } else { "@" };
        write!(f, "{at}{}-{}{}", self.from, self.to, self.offset())
    }
}

impl FromStr for Schedule {
    type Err = ParseScheduleError;

    fn from_str(s: &str) -> Result<Self, ParseScheduleError> {
        let wrong = ParseScheduleError;
        let s = s.trim().to_ascii_lowercase();
        let (days, hours) = match s.split_once('@') {
            Some((days, hours)) => {
                let days = days.split(',').map(|day| Weekday::from_short(day.trim()));
                (days.collect::<Option<_>>().ok_or(wrong)?, hours.trim())
            }
            None => (BTreeSet::new(), s.as_str()),
        };
        let (from, rest) = hours.split_at_checked(5).ok_or(wrong)?;
        let rest = rest.strip_prefix('-').ok_or(wrong)?;
        let (to, offset) = rest.split_at_checked(5).ok_or(wrong)?;
        Ok(Self {
            days,
            from: from.parse().map_err(|_| wrong)?,
            to: to.parse().map_err(|_| wrong)?,
            utc_offset_minutes: utc_offset(offset).ok_or(wrong)?,
        })
    }
}

/// `+01:00`, `-05:30`; nothing: UTC.
fn utc_offset(text: &str) -> Option<i16> {
    if text.is_empty() {
        return Some(0);
    }
    let (sign, time) = match text.split_at_checked(1)? {
        ("+", time) => (1, time),
        ("-", time) => (-1, time),
        _ => return None,
    };
    let TimeOfDay(minutes) = time.parse().ok()?;
    i16::try_from(minutes).ok().filter(|minutes| *minutes <= MAX_UTC_OFFSET).map(|it| sign * it)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-29, a Sunday, 00:00 UTC.
    const SUNDAY: u64 = 1_795_910_400;
    const HOUR: u64 = 3600;

    fn hours(days: &[Weekday], from: &str, to: &str, utc_offset_minutes: i16) -> Schedule {
        Schedule {
            days: days.iter().copied().collect(),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            utc_offset_minutes,
        }
    }

    #[test]
    fn hours_are_those_of_the_place() {
        let office = hours(&[Weekday::Monday], "08:00", "18:00", 60);
        let monday = SUNDAY + 24 * HOUR;
        assert!(!office.is_open(monday + 6 * HOUR) && office.is_open(monday + 7 * HOUR));
        assert!(office.is_open(monday + 17 * HOUR - 1) && !office.is_open(monday + 17 * HOUR));
        assert!(!office.is_open(SUNDAY + 9 * HOUR));
        assert_eq!(office.next_change(SUNDAY), Some(monday + 7 * HOUR));
        assert_eq!(office.next_change(monday + 7 * HOUR), Some(monday + 17 * HOUR));
        assert_eq!(office.next_change(monday + 17 * HOUR), Some(monday + (7 * 24 + 7) * HOUR));
    }

    #[test]
    fn hours_that_end_before_they_begin_go_on_into_the_next_day() {
        let night = hours(&[Weekday::Sunday], "22:00", "06:00", 0);
        assert!(!night.is_open(SUNDAY + 5 * HOUR), "that was Saturday's night");
        assert!(night.is_open(SUNDAY + 22 * HOUR) && night.is_open(SUNDAY + 29 * HOUR));
        assert!(!night.is_open(SUNDAY + 30 * HOUR) && !night.is_open(SUNDAY + 46 * HOUR));
        assert_eq!(night.next_change(SUNDAY + 22 * HOUR), Some(SUNDAY + 30 * HOUR));
    }

    #[test]
    fn a_day_round_every_day_is_for_ever() {
        let always = hours(&[], "09:00", "09:00", 0);
        assert!((0..200).all(|hour| always.is_open(SUNDAY + hour * HOUR)));
        assert_eq!(always.next_change(SUNDAY), None);
    }

    #[test]
    fn hours_are_read_as_they_are_written() {
        for text in ["08:00-18:00", "mon,fri@22:00-06:00+01:00", "sun@00:00-00:00-05:30"] {
            assert_eq!(text.parse::<Schedule>().unwrap().to_string(), text);
        }
        let office: Schedule = " Mon, tue@08:00-18:00+01:00".parse().unwrap();
        assert_eq!(office, hours(&[Weekday::Monday, Weekday::Tuesday], "08:00", "18:00", 60));
        assert_eq!(office.in_words(), "mon, tue 08:00 to 18:00 (UTC+01:00)");
        assert_eq!(hours(&[], "08:00", "18:00", 0).in_words(), "daily 08:00 to 18:00 (UTC+00:00)");
        for text in [
            "",
            "always",
            "08:00",
            "8:00-9:00",
            "08:00-18:00+15:00",
            "08:00-18:00+1:00",
            "day@08:00-18:00",
            "@08:00-18:00",
            "08:00-18:00é",
        ] {
            assert_eq!(text.parse::<Schedule>(), Err(ParseScheduleError), "{text}");
        }
    }

    #[test]
    fn a_time_of_day_is_read_as_it_is_written() {
        for text in ["00:00", "08:05", "23:59"] {
            assert_eq!(text.parse::<TimeOfDay>().unwrap().to_string(), text);
        }
        for text in ["", "8:00", "24:00", "12:60", "1200", "+1:00", "12:0a"] {
            assert!(text.parse::<TimeOfDay>().is_err(), "{text}");
        }
    }
}
