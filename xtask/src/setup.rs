//! `setup`: what the commands need of the machine, and how it gets there.
//!
//! Only a C compiler, rustfmt and clippy are required. Everything else makes one command better, so that its absence is
//! said and is not fatal.

use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::process::{cargo, on_path, root, run as run_command, succeeds};

/// Something that a command needs of the machine.
pub(crate) struct Need {
    /// Its name, for people.
    name: &'static str,
    /// Which command wants it, and what happens without.
    purpose: &'static str,
    required: bool,
    present: fn() -> bool,
    source: Source,
}

enum Source {
    /// A package of Debian and Ubuntu.
    Apt(&'static str),
    /// A component of the Rust toolchain.
    Rustup(&'static str),
}

impl Need {
    /// Its name, for people.
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it is there.
    pub(crate) fn is_present(&self) -> bool {
        (self.present)()
    }
}

/// Where Debian's package of Fashion-MNIST puts its files.
pub(crate) const FASHION_MNIST_DIR: &str = "/usr/share/datasets/fashion-mnist";

/// A C compiler, for SQLite and zstd.
pub(crate) const C_COMPILER: Need = Need {
    name: "C compiler",
    purpose: "builds SQLite and zstd",
    required: true,
    present: || on_path("cc") || on_path("gcc") || on_path("clang"),
    source: Source::Apt("build-essential"),
};

/// The formatter.
pub(crate) const RUSTFMT: Need = Need {
    name: "rustfmt",
    purpose: "`cargo xtask test` checks the format",
    required: true,
    present: || succeeds(cargo().args(["fmt", "--version"])),
    source: Source::Rustup("rustfmt"),
};

/// The linter.
pub(crate) const CLIPPY: Need = Need {
    name: "clippy",
    purpose: "`cargo xtask test` lints, and checks the rooms' bans",
    required: true,
    present: || succeeds(cargo().args(["clippy", "--version"])),
    source: Source::Rustup("clippy"),
};

/// The demo's data.
pub(crate) const FASHION_MNIST: Need = Need {
    name: "Fashion-MNIST",
    purpose: "data of `cargo xtask demo`, which otherwise uses 1,797 handwritten digits of this repository",
    required: false,
    present: || Path::new(FASHION_MNIST_DIR).is_dir(),
    source: Source::Apt("dataset-fashion-mnist"),
};

/// What the small-file figures are compared with.
pub(crate) const RSYNC: Need = Need {
    name: "rsync",
    purpose: "baseline of `cargo xtask bench` and `cargo xtask lab goodput`, whose comparisons with it are otherwise left out",
    required: false,
    present: || on_path("rsync"),
    source: Source::Apt("rsync"),
};

/// How fast this machine talks to itself.
pub(crate) const IPERF3: Need = Need {
    name: "iperf3",
    purpose: "baseline of `cargo xtask bench`, whose comparisons with it are otherwise left out",
    required: false,
    present: || on_path("iperf3"),
    source: Source::Apt("iperf3"),
};

/// What a baseline of reading in Python asks for.
pub(crate) const TORCHVISION: Need = Need {
    name: "torchvision",
    purpose: "baselines of `cargo xtask bench`, whose comparisons with them are otherwise left out",
    required: false,
    present: || imports("torchvision"),
    source: Source::Apt("python3-torchvision"),
};

/// A program of the lab, from a package.
const fn of_lab(name: &'static str, present: fn() -> bool, package: &'static str) -> Need {
    let purpose = "`cargo xtask lab`, and its short form in `cargo xtask test`, which is otherwise left out";
    Need { name, purpose, required: false, present, source: Source::Apt(package) }
}

/// Whether a program is there; those of the system's administrator may not be on the `PATH`.
fn of_system(program: &str) -> bool {
    on_path(program) || Path::new("/usr/sbin").join(program).is_file() || Path::new("/sbin").join(program).is_file()
}

/// The programs that make links.
const IP_AND_TC: Need = of_lab("ip and tc", || of_system("ip") && of_system("tc"), "iproute2");

/// What boots the lab's virtual machine, and what lies in it.
pub(crate) const LAB: [Need; 4] = [
    of_lab("QEMU", || on_path("qemu-system-x86_64"), "qemu-system-x86"),
    of_lab("busybox", || on_path("busybox"), "busybox-static"),
    of_lab("depmod", || of_system("depmod"), "kmod"),
    IP_AND_TC,
];

/// What builds the bindings of verbs.
const fn of_rdma(name: &'static str, present: fn() -> bool, package: &'static str) -> Need {
    let purpose = "RDMA (`--features rdma`, `cargo xtask lab rdma`), whose tests are otherwise left out";
    Need { name, purpose, required: false, present, source: Source::Apt(package) }
}

/// Whether a file of a C library is there.
fn has_file(path: &str) -> bool {
    Path::new(path).exists()
}

/// What RDMA needs: to build its bindings, and for a device in the lab.
pub(crate) const RDMA: [Need; 9] = [
    of_rdma("cmake", || on_path("cmake"), "cmake"),
    of_rdma("pkg-config", || on_path("pkg-config"), "pkg-config"),
    of_rdma("libclang", has_clang, "libclang-dev"),
    of_rdma("libnl", || has_file("/usr/include/libnl3/netlink/netlink.h"), "libnl-3-dev"),
    of_rdma("libnl-route", || has_file("/usr/include/libnl3/netlink/route/route.h"), "libnl-route-3-dev"),
    of_rdma("libibverbs", || has_file("/usr/include/infiniband/verbs.h"), "libibverbs-dev"),
    of_rdma("the Soft-RoCE provider", || has_file("/etc/libibverbs.d/rxe.driver"), "ibverbs-providers"),
    of_rdma("ib_write_bw", || on_path("ib_write_bw"), "perftest"),
    of_rdma("rdma", || of_system("rdma"), "iproute2"),
];

/// What a profile in the lab needs.
pub(crate) const PROFILE: [Need; 1] = [Need {
    name: "perf",
    purpose: "`cargo xtask lab profile`",
    required: false,
    present: || on_path("perf"),
    source: Source::Apt("linux-perf"),
}];

/// Whether there is a libclang that can be loaded.
fn has_clang() -> bool {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders.map(|entry| entry.path()).any(|folder| folder.join("lib/libclang.so").exists())
}

/// A module of the system's Python.
const fn of_python(name: &'static str, present: fn() -> bool, package: &'static str) -> Need {
    let purpose = "tests of the Python package, which are otherwise left out";
    Need { name, purpose, required: false, present, source: Source::Apt(package) }
}

/// What the Python package is tested with. Debian's packages belong to the system's interpreter, whichever comes first.
pub(crate) const PYTHON: [Need; 5] = [
    of_python("numpy", || imports("numpy"), "python3-numpy"),
    of_python("pytest", || imports("pytest"), "python3-pytest"),
    of_python("torch", || imports("torch"), "python3-torch"),
    of_python("fsspec", || imports("fsspec"), "python3-fsspec"),
    of_python("pandas", || imports("pandas"), "python3-pandas"),
];

/// Whether the system's Python finds a module.
fn imports(module: &str) -> bool {
    let script = format!("import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)");
    succeeds(Command::new("/usr/bin/python3").args(["-c", &script]))
}

/// What the lab's links between namespaces need.
pub(crate) const LINKS: [Need; 2] = [IP_AND_TC, RSYNC];

const ALL: [Need; 7] = [C_COMPILER, RUSTFMT, CLIPPY, FASHION_MNIST, RSYNC, IPERF3, TORCHVISION];

/// Checks everything, installs what is missing where that can be done, and says what is left.
pub(crate) fn run() -> anyhow::Result<()> {
    ensure(&ALL)?;
    ensure(&LAB)?;
    ensure(&RDMA)?;
    ensure(&PYTHON)?;
    if !musl_installed() {
        println!(
            "note: the target x86_64-unknown-linux-musl is not installed; `cargo xtask dist` links the agent statically \
             with glibc instead (for musl: `rustup target add x86_64-unknown-linux-musl`, and the package musl-tools)"
        );
    }
    Ok(())
}

/// Sees to it that all of `needs` are there; fails if a required one can't be.
pub(crate) fn ensure(needs: &[Need]) -> anyhow::Result<()> {
    let mut lacking = Vec::new();
    for need in needs {
        if (need.present)() {
            println!("  ok       {}", need.name);
            continue;
        }
        println!("  missing  {} ({})", need.name, need.purpose);
        if let Err(reason) = need.source.install() {
            println!("           {reason:#}");
        }
        if (need.present)() {
            println!("  ok       {}", need.name);
        } else if need.required {
            lacking.push(format!("{}: {}", need.name, need.source.by_hand()));
        } else {
            println!("           by hand: {}", need.source.by_hand());
        }
    }
    if lacking.is_empty() { Ok(()) } else { bail!("still missing:\n  {}", lacking.join("\n  ")) }
}

/// Whether the toolchain can link static musl programs.
pub(crate) fn musl_installed() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()).output();
    sysroot.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Path::new(&sysroot).join("lib/rustlib/x86_64-unknown-linux-musl/lib").is_dir()
    })
}

impl Source {
    fn install(&self) -> anyhow::Result<()> {
        match self {
            Self::Apt(package) => {
                if !on_path("apt-get") {
                    bail!("only Debian and Ubuntu are installed upon by this command");
                }
                // The lists may be old or absent; whether that mattered, the installation tells.
                let _ = run_command(as_root("apt-get")?.args(["update", "-qq"]));
                run_command(as_root("apt-get")?.args(["install", "-y", "-qq", "--no-install-recommends", package]))
            }
            Self::Rustup(component) => {
                run_command(Command::new("rustup").args(["component", "add", component]).current_dir(root()))
            }
        }
    }

    fn by_hand(&self) -> String {
        match self {
            Self::Apt(package) => format!("the package `{package}` of Debian and Ubuntu, or what your system calls it"),
            Self::Rustup(component) => format!("`rustup component add {component}`"),
        }
    }
}

/// `program` with the right to install: as it is for root, by sudo otherwise. It asks for a password only on a terminal.
fn as_root(program: &str) -> anyhow::Result<Command> {
    let user = Command::new("id").arg("-u").output()?;
    let mut command = if user.stdout.trim_ascii() == b"0" {
        Command::new(program)
    } else if on_path("sudo") {
        let mut sudo = Command::new("sudo");
        if !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            sudo.arg("-n");
        }
        sudo.arg(program);
        sudo
    } else {
        bail!("installing needs root, and there is no sudo");
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").stdout(std::process::Stdio::null());
    Ok(command)
}
