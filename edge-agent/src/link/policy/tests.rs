//! What the policy lets through, by calendar, cap and budget.
use super::calendar::{DAY_S, date};
use super::*;

/// Monday 2026-02-02 00:00:00 UTC.
const MONDAY_S: i64 = 1_769_990_400;
const HOUR_S: i64 = 3600;

fn at_time(now_s: i64) -> Now<'static> {
    Now { now_s, ..Now::default() }
}

fn nights_only() -> Policy {
    let rule = |days: [bool; 7], from_min, to_min, cap| ScheduleRule { days, from_min, to_min, caps: up(cap) };
    let weekdays = [true, true, true, true, true, false, false];
    let rules = vec![
        // Fast in the night from Friday to Saturday.
        rule([false, false, false, false, true, false, false], 22 * 60, 6 * 60, None),
        rule(weekdays, 8 * 60, 18 * 60, Some(0)),
    ];
    Policy { schedule: Schedule { caps: up(Some(250_000)), rules }, ..Policy::default() }
}

#[test]
fn the_week_decides_and_says_until_when() {
    let (closed, slow, fast) =
        (Verdict::Closed(Closed::Schedule), Verdict::Open(up(Some(250_000))), Verdict::Open(up(None)));
    let at = |day: i64, hour: i64| MONDAY_S + day * DAY_S + hour * HOUR_S;
    for (now_s, verdict, until_s) in [
        (at(0, 7), slow, at(0, 8)),
        (at(0, 8), closed, at(0, 18)),
        (at(0, 8) + 59, closed, at(0, 18)),
        (at(0, 18) - 1, closed, at(0, 18)),
        (at(0, 18), slow, at(1, 8)),
        (at(4, 21), slow, at(4, 22)),
        (at(4, 23), fast, at(5, 6)),
        (at(5, 5), fast, at(5, 6)),
        (at(5, 6), slow, at(7, 8)),
        (at(6, 23), slow, at(7, 8)),
    ] {
        let outlook = nights_only().outlook(&at_time(now_s));
        assert_eq!(outlook, Outlook { verdict, until_s: Some(until_s), is_reserve: false }, "at {}", now_s - MONDAY_S);
    }
}

#[test]
fn the_week_is_that_of_the_peoples_clock() {
    let policy = Policy { utc_offset_s: 2 * HOUR_S, ..nights_only() };
    let outlook = policy.outlook(&at_time(MONDAY_S + 6 * HOUR_S));
    assert_eq!(outlook.verdict, Verdict::Closed(Closed::Schedule));
    assert_eq!(outlook.until_s, Some(MONDAY_S + 16 * HOUR_S));
}

#[test]
fn without_rules_nothing_ever_changes() {
    let policy = Policy::default();
    assert!(policy.is_constant());
    let open = Outlook { verdict: Verdict::Open(up(None)), until_s: None, is_reserve: false };
    assert_eq!(policy.outlook(&Now { spent_bytes: u64::MAX, ..at_time(MONDAY_S) }), open);
}

#[test]
fn a_week_that_allows_nothing_is_noticed() {
    let rule = |days, cap| ScheduleRule { days, from_min: 0, to_min: 0, caps: up(cap) };
    let schedule = |cap, rules| Schedule { caps: up(cap), rules };
    assert!(!schedule(None, vec![rule([true; 7], Some(0))]).ever_allows());
    assert!(!schedule(Some(0), Vec::new()).ever_allows());
    let mut six = [true; 7];
    six[6] = false;
    assert!(schedule(None, vec![rule(six, Some(0))]).ever_allows());
    assert!(schedule(Some(0), vec![rule(six, Some(9999))]).ever_allows());
}

#[test]
fn the_month_ends_what_the_budget_began() {
    let budget = Budget { month_bytes: 5_000_000_000, reserve_bytes: 500_000_000 };
    let policy = Policy { budget: Some(budget), ..Policy::default() };
    let open = Verdict::Open(up(None));
    let (limit, last) = (4_500_000_000 - CLOSING_BYTES, 5_000_000_000 - CLOSING_BYTES);
    for (spent, is_model_update, verdict) in [
        (limit - 1, false, open),
        (limit, false, Verdict::Closed(Closed::Budget)),
        (limit, true, open),
        (last, true, Verdict::Closed(Closed::Budget)),
        (u64::MAX, false, Verdict::Closed(Closed::Budget)),
    ] {
        let outlook = policy.outlook(&Now { spent_bytes: spent, is_model_update, ..at_time(MONDAY_S) });
        let is_reserve = spent == limit && is_model_update;
        assert_eq!((outlook.verdict, outlook.is_reserve), (verdict, is_reserve), "{spent}");
        assert_eq!(outlook.until_s.is_some(), spent >= limit, "the month ends what it began");
    }
    let march = policy.outlook(&Now { spent_bytes: limit, ..at_time(MONDAY_S) }).until_s.expect("the month ends");
    assert_eq!(date(march), (2026, 3, 1));
    assert_eq!(march % DAY_S, 0);
}

#[test]
fn months_are_right_however_wrong_the_clock_is() {
    for (at_s, month, next_s) in [
        (0, "1970-01", 31 * DAY_S),
        (-1, "1969-12", 0),
        (951_782_400, "2000-02", 951_868_800),
        (2_524_608_000 + 40 * DAY_S, "2050-02", 2_524_608_000 + 59 * DAY_S),
        (MONDAY_S, "2026-02", 1_772_323_200),
    ] {
        let found = Month::at(at_s);
        assert_eq!((found.to_string().as_str(), found.next().begin_s()), (month, next_s));
        assert_eq!(Month::at(found.begin_s()), found);
        assert!(Month::at(found.begin_s() - 1) < found);
    }
    // No second is too far off to be asked about.
    for at_s in [i64::MIN, i64::MAX] {
        nights_only().outlook(&at_time(at_s / 2));
    }
}

#[test]
fn an_interface_has_rules_of_its_own() {
    let interface = |name: &str, is_metered, cap| Interface { name: name.to_owned(), is_metered, caps: up(cap) };
    let interfaces =
        vec![interface("wwan1", false, Some(0)), interface("wwan*", true, Some(9000)), interface("eth0", false, None)];
    let budget = Some(Budget { month_bytes: 5_000_000_000, reserve_bytes: 0 });
    let schedule = Schedule { caps: up(Some(20_000)), rules: Vec::new() };
    let policy = Policy { schedule, interfaces, budget, ..Policy::default() };
    let open = |cap| Verdict::Open(up(Some(cap)));
    for (name, spent_bytes, verdict) in [
        (Some("eth0"), u64::MAX, open(20_000)),
        (Some("other"), u64::MAX, open(20_000)),
        (Some("wwan0"), 0, open(9000)),
        (Some("wwan0"), u64::MAX, Verdict::Closed(Closed::Budget)),
        (Some("wwan1"), 0, Verdict::Closed(Closed::Interface)),
        (None, u64::MAX, Verdict::Closed(Closed::Budget)),
        (None, 0, open(20_000)),
    ] {
        let now = Now { spent_bytes, interface: name, ..at_time(MONDAY_S) };
        assert_eq!(policy.outlook(&now).verdict, verdict, "{name:?}");
    }
    assert!(Policy { budget, ..Policy::default() }.is_metered(Some("eth0")), "where none is named all are metered");
}

#[test]
fn what_comes_has_a_cap_of_its_own() {
    let both = |up, down| Caps { up_bytes_per_s: up, down_bytes_per_s: down };
    let interface = |name: &str, caps| Interface { name: name.to_owned(), is_metered: false, caps };
    let night = ScheduleRule { days: [true; 7], from_min: 0, to_min: 360, caps: both(None, Some(50_000)) };
    let policy = Policy {
        schedule: Schedule { caps: both(Some(9000), Some(20_000)), rules: vec![night] },
        interfaces: vec![interface("wwan0", both(None, Some(4000))), interface("off0", both(Some(0), Some(4000)))],
        ..Policy::default()
    };
    let at = |now_s, interface| policy.outlook(&Now { now_s, interface, ..Now::default() });
    let six = 6 * 3600;
    for (now_s, interface, verdict, until_s) in [
        (0, None, Verdict::Open(both(None, Some(50_000))), Some(six)),
        (six, None, Verdict::Open(both(Some(9000), Some(20_000))), Some(24 * 3600)),
        (six, Some("wwan0"), Verdict::Open(both(Some(9000), Some(4000))), Some(24 * 3600)),
        (0, Some("wwan0"), Verdict::Open(both(None, Some(4000))), Some(six)),
        (0, Some("off0"), Verdict::Closed(Closed::Interface), None),
    ] {
        assert_eq!(at(now_s, interface), Outlook { verdict, until_s, is_reserve: false }, "{now_s} {interface:?}");
    }
}

fn up(cap: Option<u64>) -> Caps {
    Caps { up_bytes_per_s: cap, down_bytes_per_s: None }
}
