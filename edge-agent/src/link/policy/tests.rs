//! What the policy lets through, by calendar, cap and budget.
use super::calendar::{DAY_S, date};
use super::*;

/// Monday 2026-02-02 00:00:00 UTC.
const MONDAY_S: i64 = 1_769_990_400;
const HOUR_S: i64 = 3600;

fn nights_only() -> Policy {
    let rule =
        |days: [bool; 7], from_min, to_min, up_bytes_per_s| ScheduleRule { days, from_min, to_min, up_bytes_per_s };
    let weekdays = [true, true, true, true, true, false, false];
    let rules = vec![
        // Fast in the night from Friday to Saturday.
        rule([false, false, false, false, true, false, false], 22 * 60, 6 * 60, None),
        rule(weekdays, 8 * 60, 18 * 60, Some(0)),
    ];
    Policy { schedule: Schedule { up_bytes_per_s: Some(250_000), rules }, ..Policy::default() }
}

#[test]
fn the_week_decides_and_says_until_when() {
    let (closed, slow, fast) = (
        Verdict::Closed(Closed::Schedule),
        Verdict::Open { up_bytes_per_s: Some(250_000) },
        Verdict::Open { up_bytes_per_s: None },
    );
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
        let outlook = nights_only().outlook(now_s, 0, false);
        assert_eq!(outlook, Outlook { verdict, until_s: Some(until_s) }, "at {}", now_s - MONDAY_S);
    }
}

#[test]
fn the_week_is_that_of_the_peoples_clock() {
    let policy = Policy { utc_offset_s: 2 * HOUR_S, ..nights_only() };
    let outlook = policy.outlook(MONDAY_S + 6 * HOUR_S, 0, false);
    assert_eq!(outlook.verdict, Verdict::Closed(Closed::Schedule));
    assert_eq!(outlook.until_s, Some(MONDAY_S + 16 * HOUR_S));
}

#[test]
fn without_rules_nothing_ever_changes() {
    let policy = Policy::default();
    assert!(policy.is_constant());
    let open = Outlook { verdict: Verdict::Open { up_bytes_per_s: None }, until_s: None };
    assert_eq!(policy.outlook(MONDAY_S, u64::MAX, false), open);
}

#[test]
fn a_week_that_allows_nothing_is_noticed() {
    let rule = |days, up| ScheduleRule { days, from_min: 0, to_min: 0, up_bytes_per_s: up };
    let schedule = |up_bytes_per_s, rules| Schedule { up_bytes_per_s, rules };
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
    let open = Verdict::Open { up_bytes_per_s: None };
    let (limit, last) = (4_500_000_000 - CLOSING_BYTES, 5_000_000_000 - CLOSING_BYTES);
    for (spent, is_model_update, verdict) in [
        (limit - 1, false, open),
        (limit, false, Verdict::Closed(Closed::Budget)),
        (limit, true, open),
        (last, true, Verdict::Closed(Closed::Budget)),
        (u64::MAX, false, Verdict::Closed(Closed::Budget)),
    ] {
        assert_eq!(policy.outlook(MONDAY_S, spent, is_model_update).verdict, verdict, "{spent}");
    }
    let march = policy.outlook(MONDAY_S, limit, false).until_s.expect("the month ends");
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
        nights_only().outlook(at_s / 2, 0, false);
    }
}
