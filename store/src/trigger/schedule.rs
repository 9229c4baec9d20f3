//! Times at which a function is called: a cron expression, read once and asked for the next time.
//!
//! What the expressions mean is croner's to say: those of Vixie cron, with an optional field for seconds in front. Times
//! are of UTC, or of a named time zone of the IANA database that is compiled in, so that every machine knows the same.

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use serde::{Deserialize, Serialize};

/// Longest expression.
const CRON_BYTES_MAX: usize = 256;
/// From here on a time must be found: 2024 began a leap year, and the answer must not depend on when it is asked for.
const PROBE_MS: u64 = 1_704_067_200_000;
/// As far as ticks that were missed are counted.
const MISSED_MAX: u32 = 1_000;

/// One of `[[triggers.schedule]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleTrigger {
    /// Its name, among those of the function.
    pub name: String,
    /// When: five fields of cron, or six with seconds in front.
    pub cron: String,
    /// In which time zone; UTC by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
}

/// Why times are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// `@every` and `@reboot` of other crons.
    #[error(
        "`cron = \"{given}\"`: only times of the clock are supported: write `*/5 * * * *` for every five minutes"
    )]
    Nickname {
        /// The expression.
        given: String,
    },
    /// No expression.
    #[error(
        "`cron = \"{given}\"` cannot be read: {reason}: it has five fields (minute, hour, day of month, month, day of week), \
         or six with seconds in front"
    )]
    Syntax {
        /// The expression, or its beginning.
        given: String,
        /// What the parser said.
        reason: String,
    },
    /// A date that no calendar has.
    #[error("`cron = \"{given}\"` never comes: there is no such date")]
    Never {
        /// The expression.
        given: String,
    },
    /// No time zone.
    #[error("`timezone = \"{given}\"` is no time zone of the IANA database, as `Europe/Berlin` is")]
    TimeZone {
        /// The refused name.
        given: String,
    },
}

impl ScheduleTrigger {
    /// Its times.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn schedule(&self) -> Result<Schedule, ScheduleError> {
        Schedule::parse(&self.cron, self.timezone.as_deref())
    }
}

/// Times, by the calendar.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    zone: Tz,
}

impl Schedule {
    /// Reads an expression, for times of `timezone` or UTC.
    ///
    /// # Errors
    /// [`ScheduleError`]; also when no time would ever come.
    pub fn parse(cron: &str, timezone: Option<&str>) -> Result<Self, ScheduleError> {
        let given = || cron.chars().take(CRON_BYTES_MAX).collect::<String>();
        if ["@every", "@reboot"]
            .iter()
            .any(|word| cron.trim().to_ascii_lowercase().starts_with(word))
        {
            return Err(ScheduleError::Nickname { given: given() });
        }
        let unread = |reason: String| ScheduleError::Syntax {
            given: given(),
            reason,
        };
        if cron.len() > CRON_BYTES_MAX {
            return Err(unread(format!("it is longer than {CRON_BYTES_MAX} bytes")));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Disallowed)
            .build();
        let parsed = parser
            .parse(cron)
            .map_err(|error| unread(error.to_string()))?;
        let name = timezone.unwrap_or("UTC");
        let Ok(zone) = name.parse() else {
            return Err(ScheduleError::TimeZone {
                given: name.chars().take(CRON_BYTES_MAX).collect(),
            });
        };
        let schedule = Self { cron: parsed, zone };
        match schedule.next_after(PROBE_MS) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never { given: given() }),
        }
    }

    /// The first time after `ms`; both in milliseconds since 1970.
    #[must_use]
    pub fn next_after(&self, ms: u64) -> Option<u64> {
        let next = self.cron.find_next_occurrence(&self.at(ms)?, false).ok()?;
        milliseconds(&next)
    }

    /// The last time after `after` and not after `now`, and how many there were between the two besides, counted up to a
    /// thousand.
    #[must_use]
    pub fn newest(&self, after: u64, now: u64) -> Option<(u64, u32)> {
        let newest = self
            .cron
            .find_previous_occurrence(&self.at(now)?, true)
            .ok()?;
        let newest = milliseconds(&newest).filter(|newest| *newest > after)?;
        let (mut missed, mut at) = (0, after);
        while missed < MISSED_MAX {
            match self.next_after(at) {
                Some(next) if next < newest => (missed, at) = (missed + 1, next),
                _ => break,
            }
        }
        Some((newest, missed))
    }

    /// The second that `ms` is in: times have no parts of one.
    fn at(&self, ms: u64) -> Option<DateTime<Tz>> {
        let seconds = i64::try_from(ms / 1_000).ok()?;
        Some(DateTime::from_timestamp(seconds, 0)?.with_timezone(&self.zone))
    }
}

fn milliseconds(at: &DateTime<Tz>) -> Option<u64> {
    u64::try_from(at.timestamp_millis()).ok()
}

/// A time in milliseconds since 1970 as RFC 3339 has it, in UTC and whole seconds.
#[must_use]
pub fn utc(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    let at = DateTime::<Utc>::from_timestamp_millis(ms).unwrap_or(DateTime::<Utc>::MAX_UTC);
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
