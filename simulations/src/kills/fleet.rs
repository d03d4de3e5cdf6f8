//! The core, its devices and the people, what is done to them, and what must hold of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Victims;
use super::person::{Desk, Person};
use crate::processes::folder::{self, Listing};
use crate::processes::{AgentProcess, CoreProcess, PATIENCE, Relay, wait_for};
use crate::random::Random;
use crate::trouble::Trouble;

/// What every link does to datagrams, each way.
const TROUBLE: Trouble = Trouble { lost: 10_000, replayed: 2_000, flipped: 0, truncated: 0, garbage: 0 };
/// What the core keeps, so that old versions go and their packs are freed while things are killed.
const CORE_SETTINGS: &str = "[retention]\nkeep_last = 8\n[gc]\nevery = \"5s\"\n[store]\npack_size = \"4MiB\"\n";
/// Longest time that a free has before its agent is hit.
const FREEING_MAX_MS: u64 = 60;
/// Time between two looks whether everything has converged.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// What no log may hold: a start that needs a hand, a bug, a catalog that had to be rebuilt, a race taken for a clone.
const NOT_IN_LOGS: [&str; 4] = ["panicked", "error[", "the catalog was damaged", "HW-1011"];

/// A dataset, its device, and the person who works on its folder.
struct Publisher {
    dataset: &'static str,
    /// Stops before the folder goes with the agent.
    person: Person,
    agent: AgentProcess,
    is_mirror: bool,
    /// The newest number of which the device was told that it is kept.
    acknowledged: u64,
    /// Files of which only the core has the bytes.
    freed: BTreeMap<String, Vec<u8>>,
    /// What each number was seen to stand for.
    versions: BTreeMap<u64, String>,
    /// Where it stands at the reader.
    copy: PathBuf,
}

/// Everything that runs.
pub(super) struct Fleet {
    publishers: [Publisher; 2],
    reader: AgentProcess,
    core: CoreProcess,
    _links: Vec<Relay>,
}

impl Fleet {
    /// Starts a core and three devices: one mirrors its folder, one appends to its dataset, one reads both.
    pub(super) fn start(random: &mut Random) -> Self {
        let mut core = CoreProcess::init();
        let settings = core.data().join("core.toml");
        let text = std::fs::read_to_string(&settings).expect("read");
        std::fs::write(&settings, format!("{text}\n{CORE_SETTINGS}")).expect("written");
        core.run();
        let mut links = Vec::new();
        let mut device = |name| {
            let agent = core.device(name);
            let relay = Relay::troubled(core.address(), TROUBLE, random.next());
            agent.dial(relay.address());
            links.push(relay);
            agent
        };
        let (mirror, append, mut reader) = (device("mirror"), device("append"), device("reader"));
        let mut publisher = |dataset, agent: AgentProcess, is_mirror| {
            let folder = agent.scratch().join("source");
            std::fs::create_dir(&folder).expect("a folder");
            let person = Person::at_work(&folder, random.split());
            let mode = if is_mirror { "mirror" } else { "append" };
            let text = folder.to_str().expect("a plain path");
            agent.run_command(&["publish", text, "--dataset", dataset, "--mode", mode, "--every", "1s"]).success();
            let copy = reader.subscribe(dataset);
            let mut this = Publisher {
                dataset,
                agent,
                person,
                is_mirror,
                acknowledged: 0,
                freed: BTreeMap::new(),
                versions: BTreeMap::new(),
                copy,
            };
            this.agent.spawn();
            this
        };
        let publishers = [publisher("cam/mirror", mirror, true), publisher("cam/append", append, false)];
        reader.spawn();
        Self { publishers, reader, core, _links: links }
    }

    /// Notes what devices were told is kept.
    pub(super) fn note_acknowledged(&mut self) {
        for publisher in &mut self.publishers {
            publisher.note_acknowledged();
        }
    }

    /// Kills.
    pub(super) fn kill(&mut self, victims: Victims) {
        if victims.core {
            self.core.kill();
        }
        let [mirror, append] = &mut self.publishers;
        for (agent, is_hit) in [
            (&mut mirror.agent, victims.mirror),
            (&mut append.agent, victims.append),
            (&mut self.reader, victims.reader),
        ] {
            if is_hit {
                agent.kill();
            }
        }
    }

    /// The same, while the one that appends is freeing a file. Gives how many it has freed.
    pub(super) fn free_while(&mut self, random: &mut Random, victims: Victims) -> u32 {
        let (command, name, bytes) = {
            let append = &self.publishers[1];
            let mut desk = append.person.quiet();
            let name = desk.give_up();
            let bytes = std::fs::read(desk.folder().join(&name)).expect("it is there");
            (append.agent.command(&["free", append.dataset, &name]), name, bytes)
        };
        let wait = Duration::from_millis(random.below(FREEING_MAX_MS));
        let freeing = std::thread::spawn(move || crate::processes::run(command));
        std::thread::sleep(wait);
        self.kill(victims);
        // Whatever became of the command: the file is either here, or the core has it.
        let said = freeing.join().expect("a command ends");
        assert!(!said.stderr.contains("panicked"), "{said:#?}");
        let append = &mut self.publishers[1];
        let mut desk = append.person.quiet();
        if desk.folder().join(&name).exists() {
            desk.take_back(name);
            return 0;
        }
        drop(desk);
        append.freed.insert(name, bytes);
        1
    }

    /// Starts again what was killed. The core has what it said it keeps, at once.
    pub(super) fn start_again(&mut self, victims: Victims) {
        let [mirror, append] = &mut self.publishers;
        for (agent, was_hit) in [
            (&mut mirror.agent, victims.mirror),
            (&mut append.agent, victims.append),
            (&mut self.reader, victims.reader),
        ] {
            if was_hit {
                agent.spawn();
            }
        }
        if victims.core {
            self.core.run();
            self.check_kept();
        }
    }

    /// What devices were told is kept is there, and a number stands for what it stood for.
    fn check_kept(&mut self) {
        let rows = self.core.list(&["dataset", "list"]);
        for publisher in &mut self.publishers {
            let newest = rows.iter().find(|row| row["name"] == publisher.dataset);
            let newest = newest.map_or(0, |row| row["number"].as_u64().expect("a number"));
            let Publisher { dataset, acknowledged, .. } = *publisher;
            assert!(newest >= acknowledged, "{dataset}: {acknowledged} was acknowledged, and {newest} is the newest");
            if newest == 0 {
                continue;
            }
            for row in self.core.list(&["dataset", "log", dataset]) {
                let number = row["number"].as_u64().expect("a number");
                let version = row["version"].as_str().expect("a version").to_owned();
                let before = publisher.versions.entry(number).or_insert_with(|| version.clone());
                assert_eq!(*before, version, "{dataset}@{number} is another version than it was");
            }
        }
    }

    /// What the reader has in force is some version as a whole. Gives what could be looked at.
    pub(super) fn check_what_is_in_force(&self) -> u32 {
        self.publishers.iter().filter(|publisher| publisher.check_in_force(&self.core)).count() as u32
    }

    /// Leaves everything alone until it has converged, and compares all there is. Gives how long it took.
    pub(super) fn converge(&mut self) -> Duration {
        let began = Instant::now();
        for publisher in &self.publishers {
            let desk = publisher.person.quiet();
            let here = folder::listing(desk.folder());
            let at_core = wait_until_same(&publisher.what_is_to_be(&desk, &here), || {
                let newest =
                    self.core.list(&["dataset", "list"]).into_iter().find(|row| row["name"] == publisher.dataset)?;
                let exported = self.core.export(&format!("{}@{}", publisher.dataset, newest["number"]));
                let at_core = folder::listing(&exported);
                std::fs::remove_dir_all(exported).expect("removed");
                Some(at_core)
            });
            wait_until_same(&Expected::All(at_core), || {
                publisher.copy.exists().then(|| folder::listing(&publisher.copy))
            });
            // Before anybody works on.
            let verified = publisher.agent.ask(&["verify"]);
            assert_eq!(verified["damaged_count"], 0, "{verified}");
            assert_eq!(verified["catalog_whole"], true, "{verified}");
            assert_eq!(folder::listing(desk.folder()), here, "the folder itself changed");
        }
        let took = began.elapsed();
        self.check_kept();
        let verified = self.reader.ask(&["verify"]);
        assert_eq!(verified["damaged_count"], 0, "{verified}");
        // One that the core's own gc keeps waiting is asked for again.
        let verified = wait_for("a verification", || {
            let said = self.core.run_command(&["verify"]);
            (!said.stderr.contains("HW-3008")).then_some(said)
        });
        verified.success();
        self.check_logs();
        took
    }

    fn check_logs(&self) {
        let agents = self.publishers.iter().map(|publisher| &publisher.agent).chain([&self.reader]);
        let logs = agents.map(|agent| (agent.name(), agent.log())).chain([("the core", self.core.log())]);
        for (whose, log) in logs {
            for bad in NOT_IN_LOGS {
                let line = log.lines().find(|line| line.contains(bad));
                assert!(line.is_none(), "{whose} logged: {line:?}");
            }
        }
    }

    /// Changes that were made and versions that were committed in all.
    pub(super) fn end(self) -> (u64, u64) {
        let changes = self.publishers.iter().map(|publisher| publisher.person.quiet().changes()).sum();
        let versions = self.core.list(&["dataset", "list"]).iter().filter_map(|row| row["number"].as_u64()).sum();
        (changes, versions)
    }
}

impl Publisher {
    /// Asks the device what it knows to be kept; it may be unable to say at the moment.
    fn note_acknowledged(&mut self) {
        let said = self.agent.run_command(&["status", "--json"]);
        if said.status == Some(0) {
            let status = said.document();
            let datasets = status["datasets"].as_array().cloned().unwrap_or_default();
            let number = datasets.iter().find(|row| row["name"] == self.dataset).and_then(|row| row["number"].as_u64());
            self.acknowledged = self.acknowledged.max(number.unwrap_or_default());
        }
    }

    /// What the newest version must hold.
    fn what_is_to_be(&self, desk: &Desk, here: &Listing) -> Expected {
        if self.is_mirror {
            return Expected::All(here.clone());
        }
        for name in self.freed.keys() {
            assert!(!desk.folder().join(name).exists(), "`{name}` was freed and is back");
        }
        Expected::AtLeast { here: here.clone(), freed: self.freed.clone() }
    }

    /// Compares what is in force at the reader with the version of that number; false if there is nothing yet, or the core
    /// has let go of the version by now.
    fn check_in_force(&self, core: &CoreProcess) -> bool {
        if !self.copy.exists() {
            return false;
        }
        let (number, visible) = wait_for("a version that stays in force while it is read", || {
            let target = std::fs::canonicalize(&self.copy).ok()?;
            let number = target.file_name()?.to_str()?.to_owned();
            let visible = folder::listing(&target);
            (std::fs::canonicalize(&self.copy).ok() == Some(target)).then_some((number, visible))
        });
        let to = core.scratch().join("in-force");
        let said = core.run_command(&["dataset", "export", &format!("{}@{number}", self.dataset), text(&to)]);
        let is_kept = said.status == Some(0);
        if is_kept {
            let which = format!("{}@{number} at the reader and at the core", self.dataset);
            folder::assert_listings(&visible, &folder::listing(&to), &which);
        } else {
            said.failed("HW-2002", &[]);
        }
        // A refused export makes none.
        let _ = std::fs::remove_dir_all(to);
        is_kept
    }
}

/// What a listing must come to.
enum Expected {
    /// Just this.
    All(Listing),
    /// All that is in the folder, and what was freed.
    AtLeast { here: Listing, freed: BTreeMap<String, Vec<u8>> },
}

impl Expected {
    /// The first path that is not as it should be.
    fn difference(&self, found: &Listing) -> Option<String> {
        match self {
            Self::All(all) => {
                all.keys().chain(found.keys()).find(|path| all.get(*path) != found.get(*path)).map(|path| shown(path))
            }
            Self::AtLeast { here, freed } => {
                let differs =
                    here.iter().find(|(path, entry)| found.get(*path) != Some(entry)).map(|(path, _)| shown(path));
                let is_there = |name: &str, bytes: &[u8]| {
                    found.get(Path::new(name)).is_some_and(|(_, at_core, _)| at_core == bytes)
                };
                differs.or_else(|| {
                    freed
                        .iter()
                        .find(|(name, bytes)| !is_there(name, bytes))
                        .map(|(name, _)| format!("{name}, which was freed"))
                })
            }
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Looks until what is found is as expected, and gives it.
#[track_caller]
fn wait_until_same(expected: &Expected, mut look: impl FnMut() -> Option<Listing>) -> Listing {
    let began = Instant::now();
    loop {
        let found = look().unwrap_or_default();
        match expected.difference(&found) {
            None => return found,
            Some(path) => assert!(began.elapsed() < PATIENCE, "it does not converge: `{path}` differs"),
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}
