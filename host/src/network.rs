//! Which network interface leads out of the machine, as the kernel's routes say.

use std::fs;

/// IPv4 routes of the kernel; see proc(5).
const ROUTES_V4: &str = "/proc/net/route";
/// IPv6 routes.
const ROUTES_V6: &str = "/proc/net/ipv6_route";
/// The flag of a route that is up.
const UP: u32 = 1;

/// The interface of the default route with the least metric; none where there is no such route, or no Linux.
pub fn outgoing_interface() -> Option<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    default_v4(&read(ROUTES_V4)).or_else(|| default_v6(&read(ROUTES_V6)))
}

fn default_v4(routes: &str) -> Option<String> {
    // Interface, destination, gateway, flags, two counters, metric, mask.
    let fields = routes.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let default = fields.filter(|f| f.len() >= 8 && f[1] == "00000000" && f[7] == "00000000" && is_up(f[3]));
    let best = default.min_by_key(|f| f[6].parse::<u32>().unwrap_or(u32::MAX))?;
    Some(best[0].to_owned())
}

fn default_v6(routes: &str) -> Option<String> {
    // Destination and its length, source and its length, next hop, metric, two counters, flags, interface.
    let fields = routes.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let is_default = |f: &Vec<&str>| f.len() >= 10 && f[1] == "00" && f[9] != "lo" && is_up(f[8]);
    let best = fields.filter(is_default).min_by_key(|f| u32::from_str_radix(f[5], 16).unwrap_or(u32::MAX))?;
    Some(best[9].to_owned())
}

fn is_up(flags: &str) -> bool {
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & UP != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        wwan0\t00000000\t0100000A\t0003\t0\t0\t700\t00000000\t0\t0\t0\n\
        eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
        eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
    const V6: &str = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
        fe800000000000000000000000000001 00000400 00000001 00000000 00000003    wlan0\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
        00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";

    #[test]
    fn the_default_route_of_least_metric_counts() {
        assert_eq!(default_v4(V4).as_deref(), Some("eth0"));
        let without_cable: String =
            V4.lines().filter(|line| !line.starts_with("eth0")).map(|line| format!("{line}\n")).collect();
        assert_eq!(default_v4(&without_cable).as_deref(), Some("wwan0"));
        assert_eq!(default_v6(V6).as_deref(), Some("wlan0"));
        for nothing in ["", "Iface\n", "a b c\n"] {
            assert_eq!((default_v4(nothing), default_v6(nothing)), (None, None));
        }
    }
}
