//! What a device costs that has nothing to do, and how soon an update gets through a full link: in virtual time, so that the
//! same comes out each time and on every machine.

use std::time::Duration;

use simulations::quiet::FIRST_BYTE_SLACK;
use simulations::world::{DAY, IDLING, IdleCost, Idling, first_byte, idle};

fn idling(name: &str) -> Idling {
    *IDLING.iter().find(|idling| idling.name == name).expect("one of those that are measured")
}

fn within_its_bar(name: &str, lasts: Duration) -> IdleCost {
    let idling = idling(name);
    let (cost, bar) = (idle(idling, lasts), idling.bar_bytes.expect("it has one"));
    assert!(cost.bytes() <= bar, "{name}: {cost:?}, and {bar} bytes a day are the most");
    assert!(cost.bytes() > bar / 4, "{name}: {cost:?} can't be all");
    cost
}

#[test]
fn check_ins_cost_little_and_bring_what_there_is() {
    for name in ["check-ins every hour", "check-ins every ten minutes"] {
        let cost = within_its_bar(name, DAY);
        let every = idling(name).check_in.expect("it checks in");
        assert!(cost.update_after <= every + every / 8, "{name}: {cost:?}");
    }
}

#[test]
fn a_kept_connection_outlives_what_nats_forget() {
    let kept = idle(idling("kept, behind a NAT that forgets after 30 s"), Duration::from_hours(1));
    assert!(kept.update_after <= Duration::from_secs(1), "{kept:?}");
    // A NAT that forgets sooner than the connection says something: the core reaches the device when that says something again.
    let forgotten = idle(idling("kept, behind a NAT that forgets after 10 s"), Duration::from_hours(1));
    assert!(forgotten.update_after <= Duration::from_secs(30), "{forgotten:?}");
    assert!(forgotten.bytes() > kept.bytes(), "{forgotten:?}: nothing was forgotten");
}

#[test]
fn the_first_byte_of_an_update_passes_by_what_is_being_sent() {
    for round_trip_ms in [20, 200] {
        let first = first_byte(Duration::from_millis(round_trip_ms), 0);
        assert!(first.round_trip >= Duration::from_millis(round_trip_ms), "{first:?}: the link is not full");
        assert!(first.left_after <= first.round_trip + FIRST_BYTE_SLACK, "{first:?}");
    }
}
