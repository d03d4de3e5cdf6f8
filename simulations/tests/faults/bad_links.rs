//! Links that deliver garbage, damaged datagrams and old ones, and links that carry everything but payload.

use simulations::processes::folder::{self, Dice};
use simulations::processes::{Relay, wait_for};
use simulations::trouble::Trouble;

use crate::Pair;

/// One datagram in fifty is hit by each.
const OFTEN: u32 = 20_000;

#[test]
fn a_link_that_delivers_garbage() {
    let mut pair = Pair::new();
    let trouble = Trouble { lost: 0, flipped: OFTEN, truncated: OFTEN, replayed: OFTEN, garbage: OFTEN };
    let [up, down] = [1, 2].map(|seed| Relay::troubled(pair.core.address(), trouble, seed));
    pair.publisher.dial(up.address());
    pair.subscriber.dial(down.address());
    folder::write(&pair.source.join("large.bin"), &Dice::new(81).bytes(6 << 20));
    pair.publisher.run();
    pair.subscriber.run();
    wait_for("the first version at the other end", || pair.copy.join("large.bin").exists().then_some(()));
    folder::assert_same(&pair.source, &pair.copy);
    for agent in [&mut pair.publisher, &mut pair.subscriber] {
        agent.stop();
        let log = agent.log();
        assert!(!log.contains("panicked") && !log.contains("HW-1011") && !log.contains("HW-1015"), "{log}");
    }
    assert!(pair.core.is_running());
    let log = pair.core.log();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(pair.publisher.ask(&["verify"])["damaged_count"], 0);
    pair.publisher.dial_as_joined();
    pair.subscriber.dial_as_joined();
    pair.still_works();
}
