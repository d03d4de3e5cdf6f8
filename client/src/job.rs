//! Which job this process is of, as batch systems and launchers say it.

use std::sync::OnceLock;

use headwater_quic::work;

use crate::options::JOB_VARIABLE;

/// Variables of batch systems and launchers that name a job, the first one that is set counts.
const LAUNCHERS: [&str; 2] = ["SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"];
/// What `torchrun` says where it was given no id.
const TORCHRUN_WITHOUT_ID: &str = "none";
/// Bytes of an id that was drawn by chance.
const DRAWN_BYTES: usize = 8;

/// The id of this process's job: [`JOB_VARIABLE`], else what the batch system or launcher says, else one that was drawn by chance. A
/// process that was forked off has the same; one that was spawned has it from [`JOB_VARIABLE`], which whoever spawns it sets.
pub fn id() -> String {
    of(|name| std::env::var(name).ok().filter(|value| !value.is_empty()), parent().as_deref())
}

fn of(variable: impl Fn(&str) -> Option<String>, parent: Option<&str>) -> String {
    if let Some(job) = variable(JOB_VARIABLE) {
        return job;
    }
    for name in LAUNCHERS {
        match variable(name) {
            Some(id) if id == TORCHRUN_WITHOUT_ID => {
                // The ranks of one machine are children of one process.
                if let Some(parent) = parent {
                    return format!("torchrun-{parent}");
                }
            }
            Some(id) => return id,
            None => {}
        }
    }
    drawn()
}

/// The process that started this one, as no other is called until the machine starts again.
fn parent() -> Option<String> {
    let machine = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{}-{}", machine.trim(), std::os::unix::process::parent_id()))
}

fn drawn() -> String {
    static DRAWN: OnceLock<String> = OnceLock::new();
    let draw = || {
        let mut bytes = [0; DRAWN_BYTES];
        if work::fill_random(&mut bytes).is_err() {
            // Then only what other processes of this machine read can be mixed up with it.
            bytes = u64::from(std::process::id()).to_le_bytes();
        }
        format!("job-{}", data_encoding::HEXLOWER.encode(&bytes))
    };
    DRAWN.get_or_init(draw).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_what_its_launcher_says() {
        let of = |set: &[(&str, &str)], parent: Option<&str>| {
            let find = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            of(find, parent)
        };
        let slurm = [("SLURM_JOB_ID", "4711"), ("TORCHELASTIC_RUN_ID", "abc")];
        assert_eq!(of(&slurm, None), "4711");
        assert_eq!(of(&[slurm[0], ("HEADWATER_JOB", "mine")], None), "mine");
        assert_eq!(of(&slurm[1..], None), "abc");
        assert_eq!(of(&[("TORCHELASTIC_RUN_ID", "none")], Some("boot-7")), "torchrun-boot-7");
        assert!(of(&[("TORCHELASTIC_RUN_ID", "none")], None).starts_with("job-"));
        assert_eq!(of(&[], None), of(&[], Some("boot-7")), "drawn once");
    }
}
