use proptest::prelude::*;

use super::*;
use crate::format::catalogue::CatalogueEntry;
use crate::id::ArchiveId;
use crate::repository::reference::parse_moment;

const HOUR: i64 = 3600 * 1_000_000_000;

fn archive(name: &str, time: i64) -> Archive {
    let mut record = crate::format::record::tests::sample();
    record.name = ArchiveName::new(name).unwrap();
    record.time = time;
    Archive {
        entry: CatalogueEntry::of(ArchiveId::random(), &record),
        name: record.name,
        tags: vec![],
        comment: String::new(),
        unconfirmed: false,
        doubtful: false,
        deleted: None,
    }
}

fn at(text: &str) -> Archive {
    archive("web01", parse_moment(text).unwrap())
}

fn now() -> i64 {
    parse_moment("2026-12-01").unwrap()
}

fn judge_all<'a>(archives: &'a [Archive], policy: &Policy, zone: &TimeZone) -> Vec<Verdict<'a>> {
    judge(&archives.iter().collect::<Vec<_>>(), policy, now(), zone).unwrap()
}

/// For each archive, why it is kept.
fn rules(archives: &[Archive], policy: &Policy, zone: &TimeZone) -> Vec<String> {
    let text =
        |verdict: &Verdict<'_>| verdict.rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    judge_all(archives, policy, zone).iter().map(text).collect()
}

fn policy(last: usize, periods: [usize; 5]) -> Policy {
    Policy { last, periods, ..Policy::default() }
}

#[test]
fn each_rule_says_why() {
    let archives = ["2025-12-31", "2026-11-18T03:00", "2026-11-18T23:00", "2026-11-19", "2026-11-20"].map(at);
    let utc = TimeZone::UTC;
    assert_eq!(
        rules(&archives, &policy(2, [0; 5]), &utc),
        ["", "", "", "last 2 of 2", "newest, last 1 of 2"]
    );
    assert_eq!(
        rules(&archives, &policy(0, [0, 3, 0, 0, 0]), &utc),
        ["", "", "daily 3 of 3", "daily 2 of 3", "newest, daily 1 of 3"]
    );
    assert_eq!(
        rules(&archives, &policy(0, [0, 0, 9, 9, 9]), &utc),
        [
            "weekly 2 of 9, monthly 2 of 9, yearly 2 of 9",
            "",
            "",
            "",
            "newest, weekly 1 of 9, monthly 1 of 9, yearly 1 of 9"
        ]
    );
    let within = Policy { within: Some("24h".parse().unwrap()), ..Policy::default() };
    assert_eq!(rules(&archives, &within, &utc), ["", "", "", "within 24h", "newest, within 24h"]);
}

#[test]
fn an_empty_policy_is_refused() {
    let tagged = Policy { tags: vec![ArchiveName::new("keep").unwrap()], ..Policy::default() };
    for empty in [Policy::default(), policy(0, [0; 5]), tagged] {
        assert!(matches!(judge(&[], &empty, now(), &TimeZone::UTC), Err(Error::EmptyPolicy)));
    }
    assert!(judge(&[], &policy(1, [0; 5]), now(), &TimeZone::UTC).unwrap().is_empty());
}

#[test]
fn tags_protect() {
    let mut archives = ["2026-11-18", "2026-11-19", "2026-11-20"].map(at);
    archives[0].tags = vec![ArchiveName::new("keep").unwrap()];
    let policy = Policy { tags: archives[0].tags.clone(), ..policy(1, [0; 5]) };
    assert_eq!(rules(&archives, &policy, &TimeZone::UTC), ["tag keep", "", "newest, last 1 of 1"]);
}

#[test]
fn what_is_not_certain_stays_and_does_not_count() {
    let mut archives = ["2026-11-18", "2026-11-19", "2026-11-20", "2026-11-21", "2099-01-01"].map(at);
    archives[2].unconfirmed = true;
    archives[3].doubtful = true;
    assert_eq!(
        rules(&archives, &policy(1, [0; 5]), &TimeZone::UTC),
        ["", "newest, last 1 of 1", "unconfirmed", "unreadable state", "in the future"]
    );
    // A clock that is an hour ahead is no future.
    let ahead = [at("2026-11-30"), archive("web01", now() + HOUR)];
    assert_eq!(rules(&ahead, &policy(1, [0; 5]), &TimeZone::UTC), ["", "newest, last 1 of 1"]);
}

#[test]
fn names_are_judged_apart() {
    let mut archives = ["2026-11-18", "2026-11-19", "2026-11-20"].map(at);
    archives[0].name = ArchiveName::new("db01").unwrap();
    let kept = rules(&archives, &policy(1, [0; 5]), &TimeZone::UTC);
    assert_eq!(kept, ["newest, last 1 of 1", "", "newest, last 1 of 1"]);
}

#[test]
fn days_are_those_of_the_time_zone() {
    let archives = ["2026-11-19T22:30Z", "2026-11-19T23:30Z", "2026-11-20T22:30Z"].map(at);
    let days = policy(0, [0, 9, 0, 0, 0]);
    assert_eq!(rules(&archives, &days, &TimeZone::UTC)[0], "");
    let berlin = TimeZone::fixed(jiff::tz::offset(1));
    let kept = rules(&archives, &days, &berlin);
    assert_eq!(kept, ["daily 2 of 9", "", "newest, daily 1 of 9"]);
    // 00:30 UTC and 01:30 UTC are both 02:30 on the clocks of that night.
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let folded = ["2026-10-25T00:30Z", "2026-10-25T01:30Z"].map(at);
    assert_eq!(rules(&folded, &policy(0, [9, 0, 0, 0, 0]), &zone)[0], "hourly 2 of 9");
}

#[test]
fn lengths_of_time() {
    let before = |text: &str, end: &str| {
        let start = text.parse::<Within>().unwrap().before(parse_moment(end).unwrap(), &TimeZone::UTC);
        crate::repository::reference::format_time(start)
    };
    assert_eq!(before("12h", "2026-03-01"), "20260228T120000Z");
    assert_eq!(before("6m", "2026-08-31"), "20260228T000000Z");
    assert_eq!(before("1y6m", "2026-08-01"), "20250201T000000Z");
    assert_eq!(before("2w1d", "2026-11-20"), "20261105T000000Z");
    assert_eq!("9999y".parse::<Within>().unwrap().before(0, &TimeZone::UTC), i64::MIN);
    for bad in ["", "30", "d", "0d", "-1d", "1x", "1d1d", "99999d", "1.5d", "30 d", "30é"] {
        assert!(bad.parse::<Within>().is_err(), "{bad}");
    }
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let within = prop::option::of(1..2000u32);
    (0..6usize, prop::array::uniform5(0..6usize), within).prop_map(|(last, periods, within)| {
        let within = within.map(|hours| format!("{hours}h").parse().unwrap());
        // Never empty.
        Policy { last: last.max(usize::from(periods == [0; 5])), periods, within, tags: vec![] }
    })
}

/// Over about five years, close together and far apart; some uncertain, two names.
fn any_archives() -> impl Strategy<Value = Vec<Archive>> {
    let one = (0..45_000i64, 0..3600i64, 0..20u8, any::<bool>());
    prop::collection::vec(one, 0..60).prop_map(|drawn| {
        let mut archives: Vec<Archive> = drawn
            .into_iter()
            .map(|(hours, seconds, odd, second)| {
                let time = now() - hours * HOUR + seconds * 1_000_000_000;
                let mut archive = archive(if second { "db01" } else { "web01" }, time);
                archive.unconfirmed = odd == 0;
                archive.doubtful = odd == 1;
                archive
            })
            .collect();
        archives.sort_by_key(|archive| (archive.time(), archive.id()));
        archives
    })
}

fn any_zone() -> impl Strategy<Value = TimeZone> {
    prop_oneof![
        Just(TimeZone::UTC),
        Just(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()),
        Just(TimeZone::posix("NZST-12NZDT,M9.5.0,M4.1.0/3").unwrap()),
    ]
}

fn kept(archives: &[Archive], policy: &Policy, zone: &TimeZone) -> Vec<Archive> {
    let verdicts = judge_all(archives, policy, zone);
    verdicts.into_iter().filter(Verdict::is_kept).map(|verdict| verdict.archive.clone()).collect()
}

fn certain<'a>(archives: &'a [Archive], name: &'a str) -> impl DoubleEndedIterator<Item = &'a Archive> {
    archives.iter().filter(move |a| a.name.as_str() == name && !a.unconfirmed && !a.doubtful)
}

proptest! {
    #[test]
    fn pruning_twice_removes_nothing_more(archives in any_archives(), policy in any_policy(), zone in any_zone()) {
        let once = kept(&archives, &policy, &zone);
        let twice = kept(&once, &policy, &zone);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn the_newest_stays_and_so_does_what_is_uncertain(
        archives in any_archives(), policy in any_policy(), zone in any_zone(), hours in 0..45_000i64,
    ) {
        let check = |archives: &[Archive]| {
            let kept = kept(archives, &policy, &zone);
            for name in ["web01", "db01"] {
                prop_assert!(certain(archives, name).next_back().is_none_or(|newest| kept.contains(newest)));
            }
            prop_assert!(archives.iter().filter(|a| a.unconfirmed || a.doubtful).all(|a| kept.contains(a)));
            Ok(())
        };
        check(&archives)?;
        let mut more = archives;
        more.push(archive("web01", now() - hours * HOUR));
        more.sort_by_key(|archive| (archive.time(), archive.id()));
        check(&more)?;
    }

    #[test]
    fn no_rule_keeps_more_than_it_says_nor_less_than_there_is(
        archives in any_archives(), mut policy in any_policy(), zone in any_zone(),
    ) {
        policy.within = None;
        policy.last = policy.last.max(usize::from(policy.periods == [0; 5]));
        let kept = kept(&archives, &policy, &zone);
        for name in ["web01", "db01"] {
            let (all, left) = (certain(&archives, name).count(), certain(&kept, name).count());
            let most = 1.max(policy.last + policy.periods.iter().sum::<usize>());
            prop_assert!(left <= most && left >= all.min(1.max(policy.last)), "{left} of {all}, {policy:?}");
        }
    }
}
