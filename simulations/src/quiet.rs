//! What quiet devices and full links came to, as tables in Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use crate::world::{FirstByte, IdleCost, Idling};

/// What an update may need beyond a round trip until its first byte is on the wire.
pub const FIRST_BYTE_SLACK: Duration = Duration::from_millis(50);

/// Both tables, and whether every bar is reached.
pub fn tables(idling: &[(Idling, IdleCost)], full: &[(Duration, u32, FirstByte)]) -> (String, bool) {
    let mut all_reached = true;
    let mut verdict = |is_reached: bool| {
        all_reached &= is_reached;
        if is_reached { "reached" } else { "**missed**" }
    };
    let mut text = String::from(
        "| connection | a day, sent and received | an update is there after | bar | |\n| --- | --- | --- | --- | --- |\n",
    );
    for (Idling { name, bar_bytes, .. }, cost) in idling {
        let (sent, received, after) = (kb(cost.up_bytes), kb(cost.down_bytes), cost.update_after.as_secs_f64());
        let bar = bar_bytes.map_or_else(String::new, |bar| format!("≤ {} kB", kb(bar)));
        let verdict = bar_bytes.map_or("", |bar| verdict(cost.bytes() <= bar));
        // Writing into a string can't fail.
        let _ = writeln!(
            text,
            "| {name} | {} kB ({sent} + {received}) | {after:.1} s | {bar} | {verdict} |",
            kb(cost.bytes())
        );
    }
    text.push_str(
        "\n| link of 20 Mbit/s, full | round trip then | first byte of an update on the wire after | bar | |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    for (empty, loss, FirstByte { left_after, round_trip }) in full {
        let (lost, bar) = (f64::from(*loss) / 10_000.0, *round_trip + FIRST_BYTE_SLACK);
        let (bar, verdict) = match *loss {
            0 => (format!("≤ {} ms", bar.as_millis()), verdict(*left_after <= bar)),
            _ => (String::new(), ""),
        };
        let (empty, full, after) = (empty.as_millis(), round_trip.as_millis(), left_after.as_millis());
        let _ = writeln!(text, "| {empty} ms, {lost} % loss | {full} ms | {after} ms | {bar} | {verdict} |");
    }
    (text, all_reached)
}

const fn kb(bytes: u64) -> u64 {
    bytes.div_ceil(1000)
}
