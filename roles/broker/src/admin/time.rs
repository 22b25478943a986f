use std::fmt;
use std::str::FromStr;

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A moment, to the second; on the wire and in print as RFC 3339 in UTC (`2026-11-21T05:00:00Z`).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
pub struct Time(pub u64);

/// The last second of the year 9999, beyond which RFC 3339 has no words.
const LAST: u64 = 253_402_300_799;

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0.min(LAST)).map_err(|_| fmt::Error)?;
        let time = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| fmt::Error)?;
        f.write_str(&time.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        OffsetDateTime::parse(s, &Rfc3339)
            .ok()
            .and_then(|time| u64::try_from(time.unix_timestamp()).ok())
            .map(Self)
            .ok_or_else(|| "a time looks like 2026-11-21T05:00:00Z".to_owned())
    }
}

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_print_and_parse() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_795_237_200, "2026-11-21T05:00:00Z"),
            (LAST, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Time(seconds).to_string(), text);
            assert_eq!(text.parse(), Ok(Time(seconds)));
        }
        assert_eq!(Time(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert!("yesterday".parse::<Time>().is_err());
        assert!("1960-01-01T00:00:00Z".parse::<Time>().is_err());
    }
}
