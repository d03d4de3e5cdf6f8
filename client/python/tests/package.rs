//! The package as Python imports it, reading from a core: each file of `tests/python` is run by pytest.
//!
//! The package is laid out as pip would: the native module that Cargo has built, the Python files, and the metadata by which
//! fsspec finds it.

#![allow(clippy::print_stdout, reason = "what a script said is shown where its test fails")]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use simulations::processes::{CoreProcess, Program, program, say_skipped};
use tempfile::TempDir;

/// The interpreter that the tests run in; else the first of [`INTERPRETERS`] that has what they need.
const INTERPRETER_VARIABLE: &str = "HEADWATER_TEST_PYTHON";
/// The system's own has Debian's packages, also where another one comes first.
const INTERPRETERS: [&str; 2] = ["python3", "/usr/bin/python3"];
/// What the tests need.
const MODULES: &str = "import numpy, pytest, torch, fsspec, pandas";
/// The name under which Python loads what was built.
const NATIVE: &str = if cfg!(feature = "rdma") { "_native_rdma" } else { "_native" };

/// Images of 784 bytes with labels of one byte.
const IMAGES: usize = 2000;
/// Images with labels as text and as JSON, and lines of such JSON.
const LABELLED: usize = 300;
const EVENTS: usize = 12_000;
/// Files of all sizes.
const MIXED: usize = 150;

/// The bytes of a file, as the tests in Python make them too.
fn bytes(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| ((number * 31 + at * 7) % 251) as u8).collect()
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, content).expect("written");
}

fn fill(folder: &Path) {
    for number in 0..IMAGES {
        write(&folder.join(format!("images/{number:05}.img")), &bytes(number, 784));
        write(&folder.join(format!("images/{number:05}.label")), &[(number % 10) as u8]);
    }
    for number in 0..MIXED {
        let length = if number % 50 == 49 { 700_000 + number } else { number * 37 };
        write(&folder.join(format!("mixed/{number:05}.bin")), &bytes(number, length));
    }
    let label = |number: usize| {
        let seen = if number.is_multiple_of(4) { r#"["car", "dog"]"# } else { "[]" };
        format!(r#"{{"label": {}, "sky": {{"rain": {}}}, "seen": {seen}}}"#, number % 7, number.is_multiple_of(3))
    };
    let mut events = String::new();
    for number in 0..LABELLED {
        write(&folder.join(format!("labelled/{number:04}.jpg")), &bytes(number, 2_000 + number));
        write(&folder.join(format!("labelled/{number:04}.json")), label(number).as_bytes());
        write(&folder.join(format!("labelled/{number:04}.cls")), format!("{}\n", number % 5).as_bytes());
    }
    for number in 0..EVENTS {
        writeln!(events, "{}", label(number)).expect("text");
    }
    write(&folder.join("events/all.jsonl"), events.as_bytes());
    let mut table = "time,celsius\n".to_owned();
    for hour in 0..500 {
        writeln!(table, "{hour},{}.5", hour % 40).expect("text");
    }
    write(&folder.join("table/2026/november.csv"), table.as_bytes());
    write(&folder.join("table/note.txt"), b"of the north field");
    write(&folder.join("table/deep/er/none.txt"), b"");
}

/// The package as pip would lay it out.
fn package(into: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    // What only tests depend on stays where Cargo made it.
    let built = std::env::current_exe().expect("a path").parent().expect("a folder").to_owned();
    let folder = into.join("headwater");
    fs::create_dir_all(&folder).expect("made");
    for entry in fs::read_dir(source.join("python/headwater")).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("copied");
        }
    }
    fs::copy(built.join("libheadwater_native.so"), folder.join(format!("{NATIVE}.abi3.so"))).expect("copied");

    let project: toml::Table =
        fs::read_to_string(source.join("pyproject.toml")).expect("read").parse().expect("a table");
    let metadata = into.join(concat!("headwater-", env!("CARGO_PKG_VERSION"), ".dist-info"));
    let text = concat!("Metadata-Version: 2.1\nName: headwater\nVersion: ", env!("CARGO_PKG_VERSION"), "\n");
    write(&metadata.join("METADATA"), text.as_bytes());
    let mut entries = String::new();
    for (group, names) in project["project"]["entry-points"].as_table().expect("entry points") {
        writeln!(entries, "[{group}]").expect("text");
        for (name, place) in names.as_table().expect("names") {
            writeln!(entries, "{name} = {}", place.as_str().expect("a place")).expect("text");
        }
    }
    write(&metadata.join("entry_points.txt"), entries.as_bytes());
}

fn interpreter() -> Option<PathBuf> {
    let named = std::env::var_os(INTERPRETER_VARIABLE).map(PathBuf::from);
    let candidates = named.into_iter().chain(INTERPRETERS.into_iter().map(PathBuf::from));
    candidates.into_iter().find(|interpreter| {
        let found = Command::new(interpreter).args(["-c", MODULES]).output();
        found.is_ok_and(|output| output.status.success())
    })
}

/// The blocks of the tutorial as one script: those of a shell as they are, a program that has a name as a file of that name.
fn script_of(tutorial: &str) -> String {
    let mut script = String::new();
    let mut name = None;
    let mut lines = tutorial.lines();
    while let Some(line) = lines.next() {
        if let Some(file) = line.strip_prefix('`').and_then(|line| line.strip_suffix("`:")) {
            name = Some(file);
        }
        let Some(language) = line.strip_prefix("```") else { continue };
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        let block = block.join("\n");
        match (language, name.take()) {
            ("sh", _) => writeln!(script, "{block}"),
            ("python", Some(file)) => writeln!(script, "cat > {file} <<'END'\n{block}\nEND"),
            ("python", None) => writeln!(script, "python3 - <<'END'\n{block}\nEND"),
            _ => Ok(()),
        }
        .expect("text");
    }
    script
}

/// Where Debian's package of Fashion-MNIST puts its files.
const FASHION_MNIST: &str = "/usr/share/datasets/fashion-mnist";

#[test]
fn the_tutorial_works_as_it_is_written() {
    let Some(interpreter) = interpreter() else {
        say_skipped("no Python with numpy, pytest, torch, fsspec and pandas (`cargo xtask setup`)");
        return;
    };
    if !Path::new(FASHION_MNIST).is_dir() {
        say_skipped("no Fashion-MNIST (`cargo xtask setup`)");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    package(&folder.path().join("site"));
    let programs = folder.path().join("bin");
    fs::create_dir(&programs).expect("made");
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, programs.join(name)).expect("linked");
    link(&program(Program::Core), "core-node");
    link(&program(Program::Client), "headwater");
    fs::write(programs.join("python3"), format!("#!/bin/sh\nexec {} \"$@\"\n", interpreter.display()))
        .expect("written");
    fs::set_permissions(programs.join("python3"), fs::Permissions::from_mode(0o755)).expect("set");

    let tutorial = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/training/tutorial.md");
    let mut script = "set -euo pipefail\ntrap 'kill %1' EXIT\n".to_owned();
    script += &script_of(&fs::read_to_string(tutorial).expect("read"));
    // Other tests run at the same time, and other machines' users have their own ports.
    for port in ["4733", "9733", "29533"] {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        script = script.replace(&format!("{port} "), &format!("{} ", free.port()));
        script = script.replace(&format!("{port}\n"), &format!("{}\n", free.port()));
    }
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    // A step that hangs fails the test, with all that it has started.
    let output = Command::new("timeout")
        .args(["--kill-after=10", "900", "bash", "-c"])
        .arg(&script)
        .current_dir(folder.path())
        .env("PATH", path)
        .env("PYTHONPATH", folder.path().join("site"))
        // A tenth of the data shows as much.
        .env("IMAGES", "6000")
        .env_remove("HEADWATER_TOKEN")
        .env_remove("HEADWATER_CORE")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the tutorial failed");
    let accuracies: Vec<f64> =
        said.lines().filter_map(|line| line.strip_prefix("accuracy ")?.split(' ').next()?.parse().ok()).collect();
    assert!(accuracies.len() == 2 && accuracies.iter().all(|&accuracy| accuracy > 0.7), "{accuracies:?}");
    assert!(said.contains("each sample came once, in the same order"));
}

/// A core with data, and the package.
struct Lab {
    interpreter: PathBuf,
    core: CoreProcess,
    folder: TempDir,
}

impl Lab {
    fn new() -> Option<Self> {
        let Some(interpreter) = interpreter() else {
            say_skipped("no Python with numpy, pytest, torch, fsspec and pandas (`cargo xtask setup`)");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        package(&folder.path().join("site"));
        fill(&folder.path().join("data"));
        let mut core = CoreProcess::init();
        core.run();
        for (dataset, samples) in
            [("images", "stems"), ("mixed", "stems"), ("table", "stems"), ("labelled", "stems"), ("events", "lines")]
        {
            let path = folder.path().join("data").join(dataset);
            let name = format!("lab/{dataset}");
            let arguments = ["import", path.to_str().expect("text"), "--dataset", &name, "--samples", samples];
            core.run_command(&arguments).success();
        }
        let token = core.token(&["--role", "reader", "--read", "lab/**"]);
        fs::write(folder.path().join("token"), token).expect("written");
        Some(Self { interpreter, core, folder })
    }

    fn python(&self) -> Command {
        let mut command = Command::new(&self.interpreter);
        command
            .current_dir(self.folder.path())
            .env_remove("HEADWATER_TOKEN")
            .env_remove("HEADWATER_CORE")
            .env("PYTHONPATH", self.folder.path().join("site"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONUNBUFFERED", "1")
            .env("HEADWATER_TOKEN_FILE", self.folder.path().join("token"))
            .env("HEADWATER_TEST_CORE_PID", self.core.pid().to_string());
        command
    }

    fn pytest(&self, file: &str) {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python");
        let mut command = self.python();
        command
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--tb=short"])
            .arg(tests.join(file));
        let output = command.output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{file} failed:\n{text}");
        assert!(!text.contains("skipped"), "nothing may be left out:\n{text}");
    }
}

#[test]
fn arrays_and_epochs() {
    let Some(lab) = Lab::new() else { return };
    lab.pytest("test_reading.py");
}

#[test]
fn torch_datasets_resume_exactly() {
    let Some(lab) = Lab::new() else { return };
    lab.pytest("test_torch.py");
}

#[test]
fn versions_are_a_filesystem() {
    let Some(lab) = Lab::new() else { return };
    lab.pytest("test_fsspec.py");
}

#[test]
fn the_command_comes_with_the_package() {
    let Some(lab) = Lab::new() else { return };
    let said = |arguments: &[&str]| lab.python().args(["-m", "headwater"]).args(arguments).output().expect("it runs");
    let listed = said(&["ls", "--json"]);
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(listed.status.success() && text.contains("\"lab/mixed\""), "{text}");
    assert_eq!(said(&["cat", "lab/table@1/note.txt"]).stdout, b"of the north field");
    let wrong = said(&["cat", "lab/table@1/none"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("error[HW-2010]"));
    assert_eq!(said(&["frobnicate"]).status.code(), Some(2));
    assert!(String::from_utf8_lossy(&said(&["--help"]).stdout).contains("Usage: headwater"));
}

#[test]
fn training_programs_on_devices() {
    let Some(lab) = Lab::new() else { return };
    lab.pytest("test_federated.py");
}

#[test]
fn forks_signals_and_cores_that_restart() {
    let Some(lab) = Lab::new() else { return };
    lab.pytest("test_processes.py");
}

/// A reader of the package has to be able to import it where there is nothing but numpy, and to be told what it lacks.
#[test]
fn nothing_but_numpy_is_needed() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import sys
sys.modules['torch'] = sys.modules['fsspec'] = None
import headwater
print(len(headwater.connect().dataset('lab/images@latest')))
";
    let output = lab.python().args(["-c", script]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), IMAGES.to_string(), "{}", String::from_utf8_lossy(&output.stderr));
}
