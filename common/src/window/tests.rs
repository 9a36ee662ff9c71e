//! Windows across both changes of the clocks, against a clock that is read second by second.
//!
//! Owns the reference: what a person would see who watches the zone's clock. Main invariant: it shares no code with
//! what it judges but the zone's offset at an instant.

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::plan::windows::Day;

fn at(text: &str) -> WallTime {
    text.parse().unwrap()
}

fn windows(zone: &str, rest: &str) -> Windows {
    toml::from_str(&format!("zone = \"{zone}\"\n{rest}")).unwrap()
}

/// One weekly window, open every day.
fn daily(zone: &str, from: &str, until: &str) -> OpenTimes {
    let text = format!("[[weekly]]\nname = \"w\"\nfrom = \"{from}\"\nuntil = \"{until}\"\n");
    let windows = windows(zone, &text);
    OpenTimes::of_weekly(&windows, &windows.weekly[0])
}

fn by_cron(zone: &str, opens: &str, open_s: u32) -> OpenTimes {
    let text = format!("[[cron]]\nname = \"w\"\nopens = \"{opens}\"\nopen_s = {open_s}\n");
    let windows = windows(zone, &text);
    OpenTimes::of_cron(&windows, &windows.cron[0])
}

/// Stretches as `opens/closes`.
fn stretches(times: &OpenTimes, from: &str, before: &str) -> Vec<String> {
    times.between(at(from), at(before)).map(|s| format!("{}/{}", s.opens, s.closes)).collect()
}

#[test]
fn a_window_over_midnight_opens_each_evening_and_closes_the_next_morning() {
    let night = daily("UTC", "22:00", "05:00");
    assert_eq!(
        stretches(&night, "2026-11-21T06:00:00Z", "2026-11-23T00:00:00Z"),
        ["2026-11-21T22:00:00Z/2026-11-22T05:00:00Z", "2026-11-22T22:00:00Z/2026-11-23T05:00:00Z"]
    );
    let inside = night.next(at("2026-11-22T04:59:59Z"), at("2027-01-01T00:00:00Z")).unwrap();
    assert_eq!(inside.opens, at("2026-11-21T22:00:00Z"));
    let closed = night.next(at("2026-11-22T05:00:00Z"), at("2027-01-01T00:00:00Z")).unwrap();
    assert_eq!(closed.opens, at("2026-11-22T22:00:00Z"));
    assert_eq!(night.next(at("2026-11-22T05:00:00Z"), at("2026-11-22T22:00:00Z")), None);
}

#[test]
fn when_clocks_are_set_forward_a_time_that_is_left_out_comes_when_they_are() {
    // Berlin, 2026-03-29: 02:00 becomes 03:00, which is 01:00Z.
    let (from, before) = ("2026-03-29T00:00:00Z", "2026-03-29T12:00:00Z");
    let opens_in_gap = daily("Europe/Berlin", "02:30", "05:00");
    assert_eq!(stretches(&opens_in_gap, from, before), ["2026-03-29T01:00:00Z/2026-03-29T03:00:00Z"]);
    let closes_in_gap = daily("Europe/Berlin", "01:15", "02:30");
    assert_eq!(stretches(&closes_in_gap, from, before), ["2026-03-29T00:15:00Z/2026-03-29T01:00:00Z"]);
    let around = daily("Europe/Berlin", "01:00", "04:00");
    assert_eq!(stretches(&around, from, before), ["2026-03-29T00:00:00Z/2026-03-29T02:00:00Z"]);
    let in_gap_alone = daily("Europe/Berlin", "02:00", "03:00");
    assert_eq!(stretches(&in_gap_alone, from, before), Vec::<String>::new());
    let pattern = by_cron("Europe/Berlin", "30 2 * * *", 7200);
    assert_eq!(stretches(&pattern, from, before), ["2026-03-29T01:00:00Z/2026-03-29T03:00:00Z"]);
}

#[test]
fn when_clocks_are_set_back_a_time_shown_twice_comes_the_first_time_and_what_is_open_stays_open() {
    // Berlin, 2026-10-25: 03:00 becomes 02:00, which is 01:00Z. 02:30 is shown at 00:30Z and at 01:30Z.
    let (from, before) = ("2026-10-24T23:00:00Z", "2026-10-25T12:00:00Z");
    let opens_in_fold = daily("Europe/Berlin", "02:30", "05:00");
    assert_eq!(stretches(&opens_in_fold, from, before), ["2026-10-25T00:30:00Z/2026-10-25T04:00:00Z"]);
    let closes_in_fold = daily("Europe/Berlin", "01:15", "02:30");
    assert_eq!(stretches(&closes_in_fold, from, before), ["2026-10-24T23:15:00Z/2026-10-25T00:30:00Z"]);
    let around = daily("Europe/Berlin", "01:00", "04:00");
    assert_eq!(stretches(&around, from, before), ["2026-10-24T23:00:00Z/2026-10-25T03:00:00Z"]);
    let in_fold_alone = daily("Europe/Berlin", "02:10", "02:40");
    assert_eq!(stretches(&in_fold_alone, from, before), ["2026-10-25T00:10:00Z/2026-10-25T00:40:00Z"]);
    let pattern = by_cron("Europe/Berlin", "30 2 * * *", 7200);
    assert_eq!(stretches(&pattern, from, before), ["2026-10-25T00:30:00Z/2026-10-25T02:30:00Z"]);
}

#[test]
fn a_window_keeps_to_the_clock_on_the_wall_from_before_a_change_to_after_it() {
    let morning = daily("America/New_York", "09:00", "17:00");
    assert_eq!(
        stretches(&morning, "2026-03-07T10:00:00Z", "2026-03-09T00:00:00Z"),
        ["2026-03-07T14:00:00Z/2026-03-07T22:00:00Z", "2026-03-08T13:00:00Z/2026-03-08T21:00:00Z"]
    );
    assert_eq!(
        stretches(&morning, "2026-10-31T10:00:00Z", "2026-11-02T00:00:00Z"),
        ["2026-10-31T13:00:00Z/2026-10-31T21:00:00Z", "2026-11-01T14:00:00Z/2026-11-01T22:00:00Z"]
    );
    // Lord Howe Island moves its clocks by half an hour only.
    let island = daily("Australia/Lord_Howe", "01:45", "02:45");
    assert_eq!(
        stretches(&island, "2026-10-03T12:00:00Z", "2026-10-04T00:00:00Z"),
        ["2026-10-03T15:15:00Z/2026-10-03T15:45:00Z"]
    );
    // Samoa left out the whole of 30 December 2011.
    let samoa = daily("Pacific/Apia", "10:00", "12:00");
    assert_eq!(
        stretches(&samoa, "2011-12-29T00:00:00Z", "2012-01-01T00:00:00Z"),
        [
            "2011-12-29T20:00:00Z/2011-12-29T22:00:00Z",
            "2011-12-30T20:00:00Z/2011-12-30T22:00:00Z",
            "2011-12-31T20:00:00Z/2011-12-31T22:00:00Z"
        ]
    );
}

#[test]
fn windows_that_touch_or_overlap_are_one_stretch() {
    let text = "[[weekly]]\nname = \"a\"\ndays = [\"sat\"]\nfrom = \"20:00\"\nuntil = \"00:00\"\n\
                [[weekly]]\nname = \"b\"\ndays = [\"sun\"]\nfrom = \"00:00\"\nuntil = \"06:00\"\n\
                [[cron]]\nname = \"c\"\nopens = \"0 5 * * sun\"\nopen_s = 7200\n\
                [tier]\n1 = { mode = \"strict\", windows = [\"a\", \"b\", \"c\"] }\n";
    let times = OpenTimes::of_tier(&windows("UTC", text), Tier::One).unwrap();
    assert_eq!(
        stretches(&times, "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"),
        ["2026-11-21T20:00:00Z/2026-11-22T07:00:00Z"]
    );
    assert_eq!(OpenTimes::of_tier(&windows("UTC", text), Tier::Two), None);
}

#[test]
fn what_takes_long_begins_only_where_enough_is_left() {
    let night = daily("UTC", "22:00", "05:00");
    let next = |text: &str, needed_s| {
        night.next_for(at(text), needed_s, at("2027-01-01T00:00:00Z")).map(|s| s.opens)
    };
    let tonight = Some(at("2026-11-21T22:00:00Z"));
    assert_eq!(next("2026-11-22T04:30:00Z", 1800), tonight);
    assert_eq!(next("2026-11-22T04:30:01Z", 1800), Some(at("2026-11-22T22:00:00Z")));
    assert_eq!(next("2026-11-21T12:00:00Z", 7 * 3600), tonight);
    assert_eq!(next("2026-11-21T12:00:00Z", 7 * 3600 + 1), None);
}

#[test]
fn a_window_that_opens_on_leap_days_or_never_is_searched_for_a_bounded_time() {
    let leap = by_cron("UTC", "0 0 29 2 *", 3600);
    let opens = leap.next(at("2096-03-01T00:00:00Z"), at("9999-01-01T00:00:00Z")).unwrap().opens;
    assert_eq!(opens, at("2104-02-29T00:00:00Z"), "1900 and 2100 are no leap years");
    let never = by_cron("UTC", "0 0 30 2 *", 3600);
    assert_eq!(never.next(at("2026-01-01T00:00:00Z"), at("9999-01-01T00:00:00Z")), None);
    for edge in [WallTime(i64::MIN), WallTime(i64::MAX), WallTime(253_402_300_799)] {
        assert_eq!(never.next(edge, WallTime(i64::MAX)), None);
        let found = daily("Pacific/Apia", "22:00", "05:00").next(edge, WallTime(i64::MAX));
        assert!(found.is_none_or(|stretch| stretch.length_s() == 7 * 3600), "{found:?}");
    }
}

/// What the zone's clock shows, in seconds since 1970 as if it were UTC.
fn shown(zone: &TimeZone, at: i64) -> i64 {
    at + i64::from(zone.to_offset(Timestamp::from_second(at).unwrap()).seconds())
}

/// The first instant from `from` on at which the clock shows a time or a later one, looked for minute by minute.
fn first_shown(zone: &TimeZone, from: i64, wanted: i64) -> i64 {
    (from..).step_by(60).find(|instant| shown(zone, *instant) >= wanted).unwrap()
}

/// The daily windows that open on a day shown by the clock, by the reference.
fn by_reference(zone: &TimeZone, midnight: i64, days: u8, (from, until): (u16, u16)) -> Option<Stretch> {
    let weekday = (midnight.div_euclid(DAY_S) + 3).rem_euclid(7);
    if days & (1 << weekday) == 0 {
        return None;
    }
    let seconds = |minutes: u16| i64::from(minutes) * 60;
    let next_day = if until > from { 0 } else { DAY_S };
    // No zone is further than 26 hours from UTC.
    let opens = first_shown(zone, midnight - 26 * 3600, midnight + seconds(from));
    let closes = first_shown(zone, midnight - 26 * 3600, midnight + next_day + seconds(until));
    (opens < closes).then_some(Stretch { opens: WallTime(opens), closes: WallTime(closes) })
}

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "Pacific/Apia",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn whatever_is_open_is_open_by_the_clock_on_the_wall(
        zone in prop::sample::select(&ZONES[..]),
        // From 2011 (Samoa's lost day) to 2031.
        day in 15_000_i64..22_400,
        days in 1_u8..128,
        from in 0_u16..1440,
        until in 0_u16..1440,
        probe in 0_i64..8 * DAY_S,
        near_change in any::<bool>(),
    ) {
        let listed: Vec<Day> = Day::ALL.into_iter().filter(|day| days & (1 << day.number()) != 0).collect();
        let name = |day: &Day| format!("\"{}\"", format!("{day:?}").to_lowercase());
        let listed = listed.iter().map(name).collect::<Vec<_>>().join(", ");
        let time = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        let text = format!(
            "[[weekly]]\nname = \"w\"\ndays = [{listed}]\nfrom = \"{}\"\nuntil = \"{}\"\n", time(from), time(until)
        );
        let windows = windows(zone, &text);
        let times = OpenTimes::of_weekly(&windows, &windows.weekly[0]);
        let zone = windows.zone.zone();
        let mut midnight = day * DAY_S;
        if near_change {
            // A week that holds a change of the clocks, where the zone has any from here on.
            let change = zone.following(Timestamp::from_second(midnight).unwrap()).next();
            if let Some(change) = change.filter(|change| change.timestamp().as_second() < 2_000_000_000) {
                midnight = (change.timestamp().as_second() / DAY_S - 3) * DAY_S;
            }
        }
        let expected: Vec<Stretch> = (-2..11)
            .filter_map(|index| by_reference(&zone, midnight + index * DAY_S, days, (from, until)))
            .collect();
        let at = WallTime(midnight + probe);
        let wanted = expected.iter().find(|stretch| stretch.closes > at);
        // Windows of 24 hours on following days are one stretch here, and several there.
        let found = times.next(at, WallTime(midnight + 9 * DAY_S));
        match (found, wanted) {
            (None, None) => {}
            (Some(found), Some(wanted)) if from == until => {
                prop_assert_eq!(found.opens <= at, wanted.opens <= at);
                prop_assert!(expected.iter().any(|stretch| stretch.closes == found.closes) || found.closes > at);
            }
            (Some(found), Some(wanted)) => prop_assert_eq!(found, *wanted),
            (None, Some(wanted)) => prop_assert!(wanted.opens >= WallTime(midnight + 9 * DAY_S)),
            (Some(found), None) => prop_assert!(false, "open, and should not be: {:?}", found),
        }
    }

    #[test]
    fn stretches_follow_one_another_and_asking_inside_one_gives_it_again(
        zone in prop::sample::select(&ZONES[..]),
        start in 1_300_000_000_i64..1_900_000_000,
        minute in 0_u16..60,
        every in 1_u8..8,
        open_s in 600_u32..90_000,
        into in 0_i64..600,
    ) {
        let times = by_cron(zone, &format!("{minute} */{every} * * *"), open_s);
        let before = WallTime(start + 3 * DAY_S);
        let found: Vec<Stretch> = times.between(WallTime(start), before).collect();
        for pair in found.windows(2) {
            prop_assert!(pair[0].closes < pair[1].opens || pair[0].length_s() > 31 * 86_400);
        }
        for stretch in found {
            prop_assert!(stretch.opens < stretch.closes && stretch.closes > WallTime(start));
            let inside = WallTime((stretch.opens.0 + into).min(stretch.closes.0 - 1).max(start));
            prop_assert_eq!(times.next(inside, before).map(|again| again.closes), Some(stretch.closes));
        }
    }
}
