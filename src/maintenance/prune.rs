//! Which archives a policy keeps: a pure function of their names, times and tags.
//!
//! Each name is judged by itself. A rule over periods keeps the newest archive of each of the latest periods that have one. What is not certain
//! is never removed and never counts as kept: unconfirmed archives, those with an unreadable state, and those from the future. Of all others
//! the newest stays, whatever the policy says. So pruning twice removes nothing more, for what a rule keeps it keeps again.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use super::error::{Error, Result};
use crate::format::name::ArchiveName;
use crate::repository::archives::Archive;

/// How far an archive's time may lie ahead, in ns: clocks and time zones that are set wrong differ by a day at most.
const FUTURE: i64 = 24 * 3600 * 1_000_000_000;

/// A stretch of calendar time: `30d`, `12h`, `2w`, `6m`, `1y`, or several of them, as `1y6m`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Within {
    text: String,
    /// Years, months, weeks, days, hours.
    parts: [i32; 5],
}

impl FromStr for Within {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let bad = || {
            format!("{text:?} is no length of time; write 12h, 30d, 2w, 6m (months), 1y, or several as 1y6m")
        };
        let mut parts = [0; 5];
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let count: i32 = rest[..end].parse().ok().filter(|count| *count <= 9999).ok_or_else(bad)?;
            let unit = rest[end..].chars().next().ok_or_else(bad)?;
            let part = "ymwdh".find(unit).and_then(|at| parts.get_mut(at)).ok_or_else(bad)?;
            if std::mem::replace(part, count) != 0 {
                return Err(bad());
            }
            rest = &rest[end + unit.len_utf8()..];
        }
        if parts == [0; 5] {
            return Err(bad());
        }
        Ok(Self { text: text.to_owned(), parts })
    }
}

impl Within {
    /// The moment so much before another one, in ns since 1970; the earliest there is, if it lies before that.
    fn before(&self, end: i64, zone: &TimeZone) -> i64 {
        let [years, months, weeks, days, hours] = self.parts;
        let span = Span::new()
            .try_years(years)
            .and_then(|span| span.try_months(months)?.try_weeks(weeks)?.try_days(days)?.try_hours(hours));
        let start = span.and_then(|span| zoned(end, zone).checked_sub(span)).map(|at| at.timestamp());
        let start = start.ok().and_then(|at| i64::try_from(at.as_nanosecond()).ok());
        start.unwrap_or(i64::MIN)
    }
}

/// How many to keep. Nothing is kept by a rule that says 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones.
    pub last: usize,
    /// Hours, days, ISO weeks, months and years of which to keep the newest archive, in this order.
    pub periods: [usize; 5],
    /// All that are not older than this before the newest one of their name.
    pub within: Option<Within>,
    /// All with one of these tags. They protect, and are no policy by themselves.
    pub tags: Vec<ArchiveName>,
}

impl Policy {
    /// Refuses a policy that keeps nothing by itself.
    ///
    /// # Errors
    /// [`Error::EmptyPolicy`].
    pub fn check(&self) -> Result<()> {
        let empty = self.last == 0 && self.periods == [0; 5] && self.within.is_none();
        if empty { Err(Error::EmptyPolicy) } else { Ok(()) }
    }
}

/// Why an archive is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// It is the newest of its name.
    Newest,
    /// It is the nth newest, of so many.
    Last(usize, usize),
    /// It is the newest of a period, the nth from the latest, of so many.
    Period(&'static str, usize, usize),
    /// It is not older than this.
    Within(String),
    /// It has this tag.
    Tag(ArchiveName),
    /// Its create or undelete has not ended, or died.
    Unconfirmed,
    /// One of its states cannot be read.
    Doubtful,
    /// Its time lies in the future.
    Future,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("newest"),
            Self::Last(nth, of) => write!(f, "last {nth} of {of}"),
            Self::Period(period, nth, of) => write!(f, "{period} {nth} of {of}"),
            Self::Within(text) => write!(f, "within {text}"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::Unconfirmed => f.write_str("unconfirmed"),
            Self::Doubtful => f.write_str("unreadable state"),
            Self::Future => f.write_str("in the future"),
        }
    }
}

impl Rule {
    /// Whether the archive is kept only because nobody knows what it is.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        matches!(self, Self::Unconfirmed | Self::Doubtful | Self::Future)
    }
}

/// What becomes of an archive: kept for these reasons, or removed if there are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The archive.
    pub archive: &'a Archive,
    /// Why it is kept.
    pub rules: Vec<Rule>,
}

impl Verdict<'_> {
    /// Whether it is kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !self.rules.is_empty()
    }
}

/// Judges archives, in the order in which they are given, which is oldest first. `now` in ns since 1970, UTC; periods are those of `zone`.
///
/// # Errors
/// [`Error::EmptyPolicy`].
pub fn judge<'a>(
    archives: &[&'a Archive],
    policy: &Policy,
    now: i64,
    zone: &TimeZone,
) -> Result<Vec<Verdict<'a>>> {
    policy.check()?;
    let mut verdicts: Vec<Verdict<'a>> =
        archives.iter().map(|archive| Verdict { archive, rules: uncertain(archive, now) }).collect();
    let mut names: BTreeMap<&ArchiveName, Vec<usize>> = BTreeMap::new();
    for (at, verdict) in verdicts.iter().enumerate().rev().filter(|(_, verdict)| !verdict.is_kept()) {
        names.entry(&verdict.archive.name).or_default().push(at);
    }
    for newest_first in names.into_values().collect::<Vec<_>>() {
        judge_name(&mut verdicts, &newest_first, policy, zone);
    }
    Ok(verdicts)
}

fn uncertain(archive: &Archive, now: i64) -> Vec<Rule> {
    let mut rules = Vec::new();
    if archive.unconfirmed {
        rules.push(Rule::Unconfirmed);
    }
    if archive.doubtful {
        rules.push(Rule::Doubtful);
    }
    if archive.time() > now.saturating_add(FUTURE) {
        rules.push(Rule::Future);
    }
    rules
}

fn judge_name(verdicts: &mut [Verdict<'_>], newest_first: &[usize], policy: &Policy, zone: &TimeZone) {
    let Some(newest) = newest_first.first() else { return };
    let newest_time = verdicts[*newest].archive.time();
    verdicts[*newest].rules.push(Rule::Newest);
    for (nth, at) in newest_first.iter().take(policy.last).enumerate() {
        verdicts[*at].rules.push(Rule::Last(nth + 1, policy.last));
    }
    for ((period, key), keep) in PERIODS.iter().zip(policy.periods) {
        let mut seen = HashSet::new();
        for at in newest_first {
            if seen.len() == keep {
                break;
            }
            if seen.insert(key(&zoned(verdicts[*at].archive.time(), zone))) {
                verdicts[*at].rules.push(Rule::Period(period, seen.len(), keep));
            }
        }
    }
    if let Some(within) = &policy.within {
        let start = within.before(newest_time, zone);
        for at in newest_first
            .iter()
            .filter(|at| verdicts[**at].archive.time() >= start)
            .copied()
            .collect::<Vec<_>>()
        {
            verdicts[at].rules.push(Rule::Within(within.text.clone()));
        }
    }
    for at in newest_first {
        let Verdict { archive, rules } = &mut verdicts[*at];
        rules.extend(archive.tags.iter().filter(|tag| policy.tags.contains(tag)).cloned().map(Rule::Tag));
    }
}

/// What tells one period from another; equal for all moments of one.
type PeriodKey = (i16, i32, i32);

/// What a rule calls a period, and which one a moment lies in.
type Period = (&'static str, fn(&Zoned) -> PeriodKey);

/// The periods of [`Policy::periods`], as rules call them.
const PERIODS: [Period; 5] = [
    // The hour that a change of clocks repeats is two hours.
    ("hourly", |at| {
        (at.year(), i32::from(at.day_of_year()) * 24 + i32::from(at.hour()), at.offset().seconds())
    }),
    ("daily", |at| (at.year(), at.day_of_year().into(), 0)),
    ("weekly", |at| {
        let week = at.date().iso_week_date();
        (week.year(), week.week().into(), 0)
    }),
    ("monthly", |at| (at.year(), at.month().into(), 0)),
    ("yearly", |at| (at.year(), 0, 0)),
];

/// A moment in ns since 1970 on the clocks of a time zone.
fn zoned(time: i64, zone: &TimeZone) -> Zoned {
    Timestamp::from_nanosecond(time.into()).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone.clone())
}

#[cfg(test)]
mod tests;
