//! Times as signatures write them.

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

use super::canonical::parameter;

/// A time, `YYYYMMDDTHHMMSSZ`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Stamp {
    /// As it is written.
    pub(super) text: String,
    /// Since the Unix epoch.
    pub(super) seconds: i64,
}

impl Stamp {
    /// Of this second.
    pub(super) fn of(seconds: i64) -> Self {
        let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (year, month, day) = at.to_calendar_date();
        let (hour, minute, second) = at.to_hms();
        let text = format!(
            "{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z",
            u8::from(month)
        );
        Self { text, seconds }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (day, clock) = text.strip_suffix('Z')?.split_once('T')?;
        let digits = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(day, 8) || !digits(clock, 6) {
            return None;
        }
        let month: Month = day[4..6].parse::<u8>().ok()?.try_into().ok()?;
        let date = Date::from_calendar_date(day[..4].parse().ok()?, month, day[6..].parse().ok()?).ok()?;
        let part = |at: usize| clock[at..at + 2].parse().ok();
        let time = Time::from_hms(part(0)?, part(2)?, part(4)?).ok()?;
        Some(Self {
            text: text.to_owned(),
            seconds: PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp(),
        })
    }

    /// `YYYYMMDD`.
    pub(super) fn day(&self) -> &str {
        self.text.get(..8).unwrap_or_default()
    }
}

/// For how many seconds a presigned URL says that it is good.
pub(super) fn expires(query: Option<&str>) -> Option<i64> {
    let seconds: i64 = parameter(query?, EXPIRES)?.parse().ok()?;
    (1..=EXPIRES_MAX).contains(&seconds).then_some(seconds)
}

/// Query parameter with the time of the signature.
pub(super) const DATE: &str = "X-Amz-Date";
/// Query parameter with the seconds that it is good for.
pub(super) const EXPIRES: &str = "X-Amz-Expires";
/// Seven days: the most that AWS takes.
const EXPIRES_MAX: i64 = 7 * 24 * 60 * 60;
