//! What may go over the link, as a person writes it.

use std::time::Duration;

use headwater_host::config::{HumanBytes, HumanDuration, HumanRate};
use serde::{Deserialize, Serialize};

use super::week::{Days, TimeOfDay, UtcOffset};
use crate::link::policy::{Budget, Caps, Interface, Policy, Schedule, ScheduleRule};

/// The smallest cap: a second must have room for one full datagram, with the headers of IPv6 and UDP. The handshake, about
/// 4.7 kB both ways, then fits into its time many times over.
pub(super) const CAP_MIN: HumanRate = HumanRate::of_bytes_per_s(1500);
/// The shortest time between two check-ins: below it a kept connection costs less.
const CHECK_IN_MIN: Duration = Duration::from_mins(1);
/// Longest name of an interface in Linux.
const INTERFACE_BYTES_MAX: usize = 15;
/// Most rules of a schedule, and most interfaces.
const RULES_MAX: usize = 100;

/// What may go over the link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkSettings {
    /// The most that this device sends in any second, with all headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<HumanRate>,
    /// The most that the core sends this device in any second, with all headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down: Option<HumanRate>,
    /// How often to check in with the core, instead of staying connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_in: Option<HumanDuration>,
    /// How far the clock of schedule and month is ahead of UTC.
    pub utc_offset: UtcOffset,
    /// What may go over the link in a month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetSettings>,
    /// What is known of network interfaces; the first that fits counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interface: Vec<InterfaceSettings>,
    /// Stretches of the week with caps of their own; the first that covers a minute counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<ScheduleSettings>,
}

/// What may go over the link in a month.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetSettings {
    /// Bytes sent and received, with all headers.
    pub month: HumanBytes,
    /// So many of them are for model updates alone.
    #[serde(default)]
    pub reserve: HumanBytes,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceSettings {
    /// Its name, as `wwan0`; a `*` at the end stands for any end.
    pub name: String,
    /// Whether what goes over it counts for the month's budget.
    #[serde(default)]
    pub metered: bool,
    /// The cap: `0` for nothing at all, left out for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<HumanRate>,
    /// The cap of what comes; left out for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<HumanRate>,
}

/// A stretch of the week.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSettings {
    /// Days on which it begins; all if none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Days>,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends; on the next day if that is not after `from`.
    pub to: TimeOfDay,
    /// The cap: `0` for nothing at all, left out for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<HumanRate>,
    /// The cap of what comes; left out for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<HumanRate>,
}

impl LinkSettings {
    /// The rules that these settings are.
    pub fn policy(&self) -> Policy {
        let rule = |rule: &ScheduleSettings| ScheduleRule {
            days: std::array::from_fn(|day| rule.days.is_empty() || rule.days.iter().any(|days| days.contains(day))),
            from_min: rule.from.minute,
            to_min: rule.to.minute,
            caps: caps(rule.up, rule.down),
        };
        let interface = |interface: &InterfaceSettings| Interface {
            name: interface.name.clone(),
            is_metered: interface.metered,
            caps: caps(interface.up, interface.down),
        };
        Policy {
            interfaces: self.interface.iter().map(interface).collect(),
            schedule: Schedule { caps: caps(self.up, self.down), rules: self.schedule.iter().map(rule).collect() },
            budget: self
                .budget
                .as_ref()
                .map(|budget| Budget { month_bytes: budget.month.0, reserve_bytes: budget.reserve.0 }),
            utc_offset_s: i64::from(self.utc_offset.minutes) * 60,
        }
    }

    /// What can't be, by key.
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems: Vec<_> = self.up.and_then(too_low).map(|message| ("link.up", message)).into_iter().collect();
        problems.extend(self.down.and_then(too_low_to_receive).map(|message| ("link.down", message)));
        if self.check_in.is_some_and(|every| every.0 < CHECK_IN_MIN) {
            let message = "less than a minute between two check-ins costs more than to stay connected; leave it out";
            problems.push(("link.check_in", message.to_owned()));
        }
        if self.schedule.len() > RULES_MAX {
            problems.push((
                "link.schedule",
                format!("{} stretches are too many; {RULES_MAX} are the most", self.schedule.len()),
            ));
        } else if !self.policy().schedule.ever_allows() {
            let key = if self.schedule.is_empty() { "link.up" } else { "link.schedule" };
            let message = "no minute of the week allows anything: this device would never reach its core";
            problems.push((key, message.to_owned()));
        }
        let rates = self.schedule.iter().filter_map(|rule| rule.up);
        problems.extend(rates.filter_map(too_low).map(|message| ("link.schedule.up", message)));
        let rates = self.schedule.iter().filter_map(|rule| rule.down);
        problems.extend(rates.filter_map(too_low_to_receive).map(|message| ("link.schedule.down", message)));
        let rates = self.interface.iter().filter_map(|interface| interface.down);
        problems.extend(rates.filter_map(too_low_to_receive).map(|message| ("link.interface.down", message)));
        if self.interface.len() > RULES_MAX {
            problems
                .push(("link.interface", format!("{} are too many; {RULES_MAX} are the most", self.interface.len())));
        }
        problems.extend((0..self.interface.len()).filter_map(|at| interface_problem(&self.interface, at)));
        if let Some(BudgetSettings { month, reserve }) = &self.budget
            && month.0 < reserve.0.saturating_add(Budget::BYTES_MIN)
        {
            let least = HumanBytes(Budget::BYTES_MIN);
            let message =
                format!("beside the reserve of {reserve} the month must have at least {least}, and it has {month}");
            problems.push(("link.budget", message));
        }
        problems
    }
}

/// What is wrong with the `at`th interface.
fn interface_problem(all: &[InterfaceSettings], at: usize) -> Option<(&'static str, String)> {
    let InterfaceSettings { name, up, .. } = &all[at];
    let covers = |other: &&InterfaceSettings| {
        other.name.strip_suffix('*').map_or(other.name == *name, |begin| name.trim_end_matches('*').starts_with(begin))
    };
    let begin = name.strip_suffix('*').unwrap_or(name);
    let is_name = |text: &str| text.len() <= INTERFACE_BYTES_MAX && !text.contains(['*', '/', ' ']);
    if name.is_empty() || !is_name(begin) {
        let message = format!("`{name}` is no interface; write a name as `ip link` shows it, or its begin and a `*`");
        return Some(("link.interface.name", message));
    }
    if let Some(other) = all[..at].iter().find(covers) {
        return Some(("link.interface.name", format!("`{}` before it fits all that `{name}` does", other.name)));
    }
    if begin.is_empty() && at == 0 && up.is_some_and(|up| up.bits_per_s == 0) {
        let message = "no interface may be used: this device would never reach its core".to_owned();
        return Some(("link.interface.up", message));
    }
    up.and_then(too_low).map(|message| ("link.interface.up", message))
}

fn caps(up: Option<HumanRate>, down: Option<HumanRate>) -> Caps {
    Caps { up_bytes_per_s: up.map(HumanRate::bytes_per_s), down_bytes_per_s: down.map(HumanRate::bytes_per_s) }
}

fn too_low_to_receive(cap: HumanRate) -> Option<String> {
    if cap.bits_per_s == 0 {
        return Some("a link over which nothing comes is closed; write `up = \"0\"` for that".to_owned());
    }
    too_low(cap)
}

fn too_low(cap: HumanRate) -> Option<String> {
    let is_too_low = cap.bits_per_s != 0 && cap < CAP_MIN;
    is_too_low.then(|| format!("the handshake with the core needs more than {cap}; {CAP_MIN} is the least"))
}

#[cfg(test)]
mod tests {
    use headwater_host::config::Validate as _;

    use crate::settings::Settings;

    /// What is wrong with a configuration, as `config check` says it.
    fn wrong(text: &str) -> String {
        let settings: Settings = match toml::from_str(text) {
            Ok(settings) => settings,
            Err(error) => return error.message().to_owned(),
        };
        settings.problems().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    const NEVER: &str = "no minute of the week allows anything: this device would never reach its core";

    #[test]
    fn a_cap_must_let_the_handshake_through() {
        for (up, found) in [
            ("2 Mbit/s", String::new()),
            ("12 kbit/s", String::new()),
            (
                "11 kbit/s",
                "`link.up`: the handshake with the core needs more than 11kbit/s; 12kbit/s is the least".to_owned(),
            ),
            ("0", format!("`link.up`: {NEVER}")),
        ] {
            assert_eq!(wrong(&format!("[link]\nup = \"{up}\"\n")), found, "{up}");
        }
    }

    #[test]
    fn a_cap_of_what_comes_must_let_the_handshake_through() {
        let low = "the handshake with the core needs more than 11kbit/s; 12kbit/s is the least";
        let closed = "a link over which nothing comes is closed; write `up = \"0\"` for that";
        for (down, found) in [("12 kbit/s", None), ("11 kbit/s", Some(low)), ("0", Some(closed))] {
            for (table, key) in [
                ("[link]\n", "link.down"),
                ("[[link.schedule]]\nfrom = \"08:00\"\nto = \"18:00\"\n", "link.schedule.down"),
                ("[[link.interface]]\nname = \"wwan0\"\n", "link.interface.down"),
            ] {
                let found = found.map(|found| format!("`{key}`: {found}")).unwrap_or_default();
                assert_eq!(wrong(&format!("{table}down = \"{down}\"\n")), found, "{down}");
            }
        }
    }

    #[test]
    fn check_ins_are_no_closer_than_a_minute() {
        assert_eq!(wrong("[link]\ncheck_in = \"1h\"\n"), "");
        assert_eq!(wrong("[link]\ncheck_in = \"60s\"\n"), "");
        let found = wrong("[link]\ncheck_in = \"59s\"\n");
        assert!(found.starts_with("`link.check_in`: less than a minute"), "{found}");
    }

    #[test]
    fn a_week_must_allow_something_and_make_sense() {
        let rule = |days: &str, from: &str, to: &str, up: &str| {
            format!("[[link.schedule]]\ndays = [{days}]\nfrom = \"{from}\"\nto = \"{to}\"\nup = \"{up}\"\n")
        };
        let interface =
            |name: &str, up: &str| format!("[[link.interface]]\nname = \"{name}\"\nmetered = true\nup = \"{up}\"\n");
        for (text, found) in [
            (rule("\"mon-fri\"", "08:00", "18:00", "0"), String::new()),
            (rule("\"mon-sun\"", "00:00", "24:00", "0"), format!("`link.schedule`: {NEVER}")),
            (rule("", "06:00", "06:00", "0"), format!("`link.schedule`: {NEVER}")),
            (format!("[link]\nup = \"0\"\n{}", rule("", "22:00", "06:00", "1 Mbit/s")), String::new()),
            (
                rule("\"sat\"", "08:00", "18:00", "1 kbit/s"),
                "`link.schedule.up`: the handshake with the core needs more than 1kbit/s; 12kbit/s is the least"
                    .to_owned(),
            ),
            (rule("\"noday\"", "08:00", "18:00", "0"), "`noday` is no day; write `sat` or `mon-fri`".to_owned()),
            (rule("", "25:00", "18:00", "0"), "`25:00` is no time of day; write `08:00`".to_owned()),
            (rule("", "08:60", "18:00", "0"), "`08:60` is no time of day; write `08:00`".to_owned()),
            (
                interface("wwan*", "1 kbit/s"),
                "`link.interface.up`: the handshake with the core needs more than 1kbit/s; 12kbit/s is the least"
                    .to_owned(),
            ),
            (interface("wwan*", "0") + &interface("eth0", "12 kbit/s"), String::new()),
            (
                interface("a-very-long-name", "0"),
                "`link.interface.name`: `a-very-long-name` is no interface; write a name as `ip link` shows it, or its begin and a `*`"
                    .to_owned(),
            ),
            (
                interface("wwan*", "0") + &interface("wwan0", "0"),
                "`link.interface.name`: `wwan*` before it fits all that `wwan0` does".to_owned(),
            ),
            (
                interface("*", "0"),
                "`link.interface.up`: no interface may be used: this device would never reach its core".to_owned(),
            ),
            ("[link]\nutc_offset = \"CET\"\n".to_owned(), "`CET` is no offset from UTC; write `+01:00`".to_owned()),
        ] {
            assert_eq!(wrong(&text), found, "{text}");
        }
    }

    #[test]
    fn a_month_must_have_more_than_its_reserve() {
        let budget =
            |month: &str, reserve: &str| format!("[link.budget]\nmonth = \"{month}\"\nreserve = \"{reserve}\"\n");
        assert_eq!(wrong(&budget("5GB", "500MB")), "");
        let found = wrong(&budget("64MiB", "60MiB"));
        assert_eq!(
            found,
            "`link.budget`: beside the reserve of 60MiB the month must have at least 10MiB, and it has 64MiB"
        );
    }

    #[test]
    fn days_go_around_the_week() {
        let settings: Settings = toml::from_str(
            "[[link.schedule]]\ndays = [\"sat-mon\", \"wed\"]\nfrom = \"22:00\"\nto = \"06:00\"\n[link]\nutc_offset = \"-03:30\"\n",
        )
        .expect("understood");
        let policy = settings.link.policy();
        assert_eq!(policy.schedule.rules[0].days, [true, false, true, false, false, true, true]);
        assert_eq!(policy.utc_offset_s, -12_600);
        let again: Settings = toml::from_str(&toml::to_string(&settings).expect("written")).expect("read");
        assert_eq!(again, settings);
    }
}
