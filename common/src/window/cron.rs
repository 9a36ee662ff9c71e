//! When a window opens, in the five fields that cron made known.
//!
//! Owns [`CronPattern`]: minute, hour, day of the month, month, day of the week, with lists, ranges, steps and names,
//! and `sun#1` for the first Sunday of a month. Main invariant: one that exists names at least one minute of the day,
//! and asking it about a day takes bounded time. Refuses a pattern that restricts both the day of the month and the
//! day of the week: cron takes that for "either", and whoever writes it mostly means "both". Refuses seconds, years
//! and nicknames: a window opens on a minute, and is written one way.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::bounds::CRON_BYTES_MAX;

/// The minutes at which a window opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CronPattern {
    /// As written.
    text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Bit 0: Sunday.
    weekdays: u64,
    /// By weekday: bit n, the nth of the month. Zero: every one.
    nth: [u8; 7],
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Longer than anyone writes.
    #[error("the pattern has {0} bytes; at most {CRON_BYTES_MAX}")]
    TooLong(usize),
    /// Not five fields.
    #[error(
        "{text:?} has {fields} fields; write five: minute, hour, day of the month, month, day of the week, as in \
         \"0 2 * * sun\""
    )]
    Fields {
        /// The pattern, cut.
        text: String,
        /// How many it has.
        fields: usize,
    },
    /// One field is not what it should be.
    #[error("{field} {part:?}: write {least} to {most}{names}, a range such as {least}-{most}, *, or */2")]
    Field {
        /// Which.
        field: &'static str,
        /// The part of it.
        part: String,
        /// Its least value.
        least: u8,
        /// Its highest value.
        most: u8,
        /// Names that stand for values.
        names: &'static str,
    },
    /// Days twice.
    #[error(
        "day of the month {days:?} and day of the week {weekdays:?} are both given: cron opens on either; leave one * \
         (the first Sunday of a month is \"* * sun#1\")"
    )]
    BothDays {
        /// The one.
        days: String,
        /// The other.
        weekdays: String,
    },
}

/// One field: its name, its bounds, and names that stand for values from the least on.
struct Field {
    name: &'static str,
    least: u8,
    most: u8,
    names: &'static [&'static str],
    shown: &'static str,
}

const MINUTE: Field = Field { name: "minute", least: 0, most: 59, names: &[], shown: "" };
const HOUR: Field = Field { name: "hour", least: 0, most: 23, names: &[], shown: "" };
const DAY: Field = Field { name: "day of the month", least: 1, most: 31, names: &[], shown: "" };
const MONTH: Field = Field {
    name: "month",
    least: 1,
    most: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    shown: " or jan to dec",
};
const WEEKDAY: Field = Field {
    name: "day of the week",
    least: 0,
    most: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    shown: " or sun to sat",
};

impl Field {
    fn wrong(&self, part: &str) -> CronError {
        let part = part.chars().take(40).collect();
        CronError::Field { field: self.name, part, least: self.least, most: self.most, names: self.shown }
    }

    fn value(&self, text: &str) -> Option<u8> {
        let named = self.names.iter().position(|name| *name == text);
        let value = match named {
            Some(at) => self.least + u8::try_from(at).ok()?,
            None if !text.is_empty() && text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().ok()?
            }
            None => return None,
        };
        (self.least..=self.most).contains(&value).then_some(value)
    }

    /// The values of one part between commas, as bits.
    fn part(&self, part: &str) -> Result<u64, CronError> {
        let (values, step) = match part.split_once('/') {
            Some((values, step)) => (values, Some(step)),
            None => (part, None),
        };
        let (from, to) = match values.split_once('-') {
            _ if values == "*" => (Some(self.least), Some(self.most)),
            Some((from, to)) => (self.value(from), self.value(to)),
            // A step needs a range to step through.
            None if step.is_some() => (None, None),
            None => (self.value(values), self.value(values)),
        };
        let step = match step {
            None => Some(1),
            // Written as a number is: neither `+2` nor `02`.
            Some(text) => text
                .parse()
                .ok()
                .filter(|step: &u8| (1..=self.most).contains(step) && step.to_string() == text),
        };
        match (from, to, step) {
            (Some(from), Some(to), Some(step)) if from <= to => {
                Ok((from..=to).step_by(step.into()).fold(0, |bits, value| bits | 1 << value))
            }
            _ => Err(self.wrong(part)),
        }
    }

    fn parse(&self, text: &str) -> Result<u64, CronError> {
        text.split(',').try_fold(0, |bits, part| Ok(bits | self.part(part)?))
    }
}

impl CronPattern {
    /// The minutes of a day at which it opens, in order.
    pub(super) fn minutes_of(&self, day: Date) -> impl Iterator<Item = u16> + '_ {
        let opens = self.is_on(day);
        (0..24_u16)
            .filter(move |hour| opens && self.hours & (1 << hour) != 0)
            .flat_map(|hour| (0..60_u16).map(move |minute| (hour, minute)))
            .filter(|(_, minute)| self.minutes & (1 << minute) != 0)
            .map(|(hour, minute)| hour * 60 + minute)
    }

    fn is_on(&self, day: Date) -> bool {
        let weekday = day.weekday().to_sunday_zero_offset().unsigned_abs();
        let nth = self.nth[usize::from(weekday)];
        let of_month = day.day().unsigned_abs();
        self.months & (1 << day.month().unsigned_abs()) != 0
            && self.days & (1 << of_month) != 0
            && self.weekdays & (1 << weekday) != 0
            && (nth == 0 || nth & (1 << ((of_month - 1) / 7 + 1)) != 0)
    }
}

impl FromStr for CronPattern {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        if text.len() > CRON_BYTES_MAX {
            return Err(CronError::TooLong(text.len()));
        }
        let fields: Vec<&str> = text.split(' ').collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(CronError::Fields { text: text.to_owned(), fields: fields.len() });
        };
        if day != "*" && weekday != "*" {
            return Err(CronError::BothDays { days: day.to_owned(), weekdays: weekday.to_owned() });
        }
        let (weekdays, nth) = weekdays(weekday)?;
        Ok(Self {
            text: text.to_owned(),
            minutes: MINUTE.parse(minute)?,
            hours: HOUR.parse(hour)?,
            days: DAY.parse(day)?,
            months: MONTH.parse(month)?,
            weekdays,
            nth,
        })
    }
}

/// Weekdays with Sunday as 0 alone, and which of the month they are held to.
fn weekdays(text: &str) -> Result<(u64, [u8; 7]), CronError> {
    let (mut bits, mut nth, mut every) = (0, [0_u8; 7], 0_u64);
    for part in text.split(',') {
        let Some((day, number)) = part.split_once('#') else {
            let found = WEEKDAY.part(part)?;
            every |= found;
            bits |= found;
            continue;
        };
        let wrong = || WEEKDAY.wrong(part);
        let day = WEEKDAY.value(day).ok_or_else(wrong)? % 7;
        let number = number.parse::<u8>().ok().filter(|number| (1..=5).contains(number)).ok_or_else(wrong)?;
        bits |= 1 << day;
        nth[usize::from(day)] |= 1 << number;
    }
    let sunday_is_0 = |bits: u64| (bits | bits >> 7) & 0x7f;
    let (bits, every) = (sunday_is_0(bits), sunday_is_0(every));
    for (day, nth) in nth.iter_mut().enumerate() {
        if every & (1 << day) != 0 {
            *nth = 0;
        }
    }
    Ok((bits, nth))
}

impl fmt::Display for CronPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl TryFrom<String> for CronPattern {
    type Error = CronError;
    fn try_from(text: String) -> Result<Self, CronError> {
        text.parse()
    }
}

impl From<CronPattern> for String {
    fn from(pattern: CronPattern) -> Self {
        pattern.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    fn opens(pattern: &str, day: Date) -> Vec<u16> {
        pattern.parse::<CronPattern>().unwrap().minutes_of(day).collect()
    }

    fn days_of_november(pattern: &str) -> Vec<i8> {
        let day = |number| date(2026, 11, number);
        (1..=30).filter(|number| !opens(pattern, day(*number)).is_empty()).collect()
    }

    #[test]
    fn minutes_and_hours_are_listed_ranged_and_stepped() {
        let day = date(2026, 11, 21);
        assert_eq!(opens("0 2 * * *", day), [120]);
        assert_eq!(opens("15,45 1-2 * * *", day), [75, 105, 135, 165]);
        assert_eq!(opens("0 */8 * * *", day), [0, 480, 960]);
        assert_eq!(opens("50-59/5 23 * * *", day), [1430, 1435]);
    }

    #[test]
    fn days_are_held_to_the_month_the_week_or_the_nth_weekday() {
        assert_eq!(days_of_november("0 2 */10 * *"), [1, 11, 21]);
        assert_eq!(days_of_november("0 2 * nov sun"), [1, 8, 15, 22, 29]);
        assert_eq!(days_of_november("0 2 * * 7"), days_of_november("0 2 * * 0"));
        assert_eq!(days_of_november("0 2 * * sun#1,tue#3"), [1, 17]);
        assert_eq!(days_of_november("0 2 * * sun#1,sun"), [1, 8, 15, 22, 29]);
        assert_eq!(days_of_november("0 2 * * sat,sun"), days_of_november("0 2 * * 6-7"));
        assert!(days_of_november("0 2 * jan *").is_empty());
        assert_eq!(days_of_november("0 2 * * sun#5"), [29]);
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_field_and_what_may_stand_there() {
        let said = |text: &str| text.parse::<CronPattern>().unwrap_err().to_string();
        assert_eq!(said("60 2 * * *"), "minute \"60\": write 0 to 59, a range such as 0-59, *, or */2");
        for (text, part) in [
            ("0 2 * *", "has 4 fields"),
            ("0 2 * * * *", "has 6 fields"),
            ("0  2 * * *", "has 6 fields"),
            ("@daily", "has 1 fields"),
            ("0 24 * * *", "hour \"24\""),
            ("0 2 0 * *", "day of the month \"0\""),
            ("0 2 * 13 *", "month \"13\""),
            ("0 2 * * 8", "day of the week \"8\": write 0 to 7 or sun to sat"),
            ("0 2 * * Sun", "day of the week \"Sun\""),
            ("0 2 * * sun#6", "\"sun#6\""),
            ("*/0 2 * * *", "\"*/0\""),
            ("*/+2 2 * * *", "\"*/+2\""),
            ("5/10 2 * * *", "\"5/10\""),
            ("9-5 2 * * *", "\"9-5\""),
            ("0 2 * * sat-sun", "\"sat-sun\""),
            (", 2 * * *", "minute \"\""),
            ("-1 2 * * *", "\"-1\""),
            ("0 2 1-7 * sun", "are both given"),
            (&"0,".repeat(200), "at most 256"),
        ] {
            assert!(said(text).contains(part), "{text}: {}", said(text));
        }
    }

    #[test]
    fn a_pattern_is_written_as_it_was_read() {
        let pattern: CronPattern = "0 2 * * sun#1".parse().unwrap();
        assert_eq!(pattern.to_string(), "0 2 * * sun#1");
        assert_eq!(String::from(pattern.clone()).parse(), Ok(pattern));
    }
}
