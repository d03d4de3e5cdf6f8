//! What the controllers make of links that edges have, in virtual time.

#![allow(clippy::panic, reason = "a test may panic")]

use headwater_quic::Congestion;
use simulations::goodput::{Measured, SECOND, Scenario, run, scenarios};

const MIB: u64 = 1 << 20;

/// A scenario by a part of its name, with less to send.
fn shorter(name: &str, bytes: u64) -> Scenario {
    let found = scenarios::all().into_iter().find(|scenario| scenario.name.contains(name));
    let Some(scenario) = found else { panic!("there is no link `{name}`") };
    Scenario { bytes: Some(bytes), ..scenario }
}

#[track_caller]
fn reaches(measured: &Measured, share: f64, rtt: f64) {
    assert!(measured.complete, "{measured:?}");
    assert!(measured.figures.share >= share && measured.figures.rtt_mean <= rtt, "{measured:?}");
}

#[test]
fn a_product_in_flight_fills_long_and_lossy_links_and_not_their_queues() {
    reaches(&run(&shorter("no loss", 40 * MIB), Congestion::Bdp, 1), 0.92, 1.5);
    reaches(&run(&shorter("2 % loss", 40 * MIB), Congestion::Bdp, 2), 0.88, 1.5);
    reaches(&run(&shorter("10 % loss", 40 * MIB), Congestion::Bdp, 3), 0.75, 1.5);
    reaches(&run(&shorter("600 ms", 60 * MIB), Congestion::Bdp, 4), 0.85, 1.5);
    reaches(&run(&shorter("256 kbit/s", 2 * MIB), Congestion::Bdp, 5), 0.6, 2.0);
}

#[test]
fn it_takes_its_part_beside_cubic_and_leaves_the_other() {
    let scenario = scenarios::all().into_iter().find(|scenario| scenario.rival.is_some()).expect("one has a rival");
    for seed in 6..9 {
        let measured = run(&scenario, Congestion::Bdp, seed);
        assert!((0.35..=0.65).contains(&measured.figures.fairness), "seed {seed}: {measured:?}");
    }
}

/// What the races are for: quinn alone gets 3 % of this, because each unanswered packet doubles its wait for the next.
#[test]
fn a_link_that_comes_and_goes_is_used_while_it_is_there() {
    for seed in 11..13 {
        let scenario = scenarios::all().into_iter().find(|scenario| scenario.turns.is_some()).expect("one has turns");
        let measured = run(&Scenario { time: 150 * SECOND, ..scenario }, Congestion::Bdp, seed);
        assert!(measured.figures.share >= 0.65, "seed {seed}: {measured:?}");
    }
}

/// The worlds bite: what is known of CUBIC shows in them.
#[test]
fn cubic_gives_up_where_packets_are_lost_and_fills_queues_where_none_are() {
    let lossy = run(&shorter("2 % loss", 2 * MIB), Congestion::Cubic, 7);
    assert!(lossy.figures.share < 0.14, "{lossy:?}");
    let clean = run(&shorter("no loss", 40 * MIB), Congestion::Cubic, 8);
    assert!(clean.figures.rtt_mean > 1.5, "{clean:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let scenario = shorter("10 % loss", 2 * MIB);
    let traces = [9, 9, 10].map(|seed| run(&scenario, Congestion::Bdp, seed).trace);
    assert_eq!(traces[0], traces[1]);
    assert_ne!(traces[1], traces[2]);
}
