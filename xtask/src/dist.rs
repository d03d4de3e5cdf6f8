//! `dist`: a tarball and a Debian package of each program, with its systemd unit; and the wheel of the Python package.
//!
//! The agent is linked statically, so that one file runs on any Linux of its architecture. With a musl target installed it
//! is built for that; otherwise glibc is linked in, which since 2.34 holds its own name resolution.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::process::{cargo, output, root, run as run_command, target_dir};
use crate::{setup, wheel};

/// What is shipped of a program.
struct Product {
    package: &'static str,
    /// Where Cargo has the program.
    source: &'static str,
    program: &'static str,
    /// None of what a person runs.
    unit: Option<&'static str>,
    description: &'static str,
    is_static: bool,
}

const PRODUCTS: [Product; 3] = [
    Product {
        package: "headwater-agent",
        source: "edge-agent",
        program: "edge-agent",
        unit: Some("headwater-agent.service"),
        description: "publishes folders as signed dataset versions to a Headwater core",
        is_static: true,
    },
    Product {
        package: "headwater-core",
        source: "core-node",
        program: "core-node",
        unit: Some("headwater-core.service"),
        description: "stores datasets and models, and sends them to those who may read them",
        is_static: false,
    },
    Product {
        package: "headwater-client",
        source: "headwater-client",
        program: "headwater",
        unit: None,
        description: "reads datasets from a Headwater core, and imports folders there",
        is_static: true,
    },
];

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds everything for `target`, or for this machine, into `target/dist/`.
pub(crate) fn run(target: Option<&str>) -> anyhow::Result<()> {
    let host = host()?;
    let out = target_dir().join("dist");
    fs::create_dir_all(&out)?;
    for product in &PRODUCTS {
        let program = product.build(target, &host)?;
        let target = target.unwrap_or(&host);
        let tree = product.stage(&program, &out)?;
        let machine = target.split('-').next().unwrap_or(target);
        let tarball = out.join(format!("{}-{VERSION}-{machine}.tar.gz", product.package));
        tar(&tree, &tarball, &format!("--transform=s,^\\.,{}-{VERSION},", product.package))?;
        println!("{}", tarball.display());
        println!("{}", product.deb(&tree, debian_architecture(target)?, &out)?.display());
        fs::remove_dir_all(&tree)?;
    }
    if target.is_none_or(|target| target == host) {
        println!("{}", wheel::build(&out)?.display());
    }
    Ok(())
}

impl Product {
    /// Builds the program and gives its path.
    fn build(&self, target: Option<&str>, host: &str) -> anyhow::Result<PathBuf> {
        let target = match target {
            Some(target) => Some(target),
            None if !self.is_static => None,
            None if host == "x86_64-unknown-linux-gnu" && setup::musl_installed() => Some("x86_64-unknown-linux-musl"),
            None => Some(host),
        };
        let mut command = cargo();
        command.args(["build", "--locked", "--release", "--package", self.source, "--bin", self.program]);
        // The compiler's own linker strips for any architecture; this machine's `strip` may know only its own.
        command.env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
        let mut folder = target_dir();
        if let Some(target) = target {
            // Naming the target also keeps the flags below away from build scripts and macros, which run here.
            command.args(["--target", target]);
            folder.push(target);
        }
        if self.is_static {
            println!("{}: linked statically for {}", self.program, target.unwrap_or(host));
            command.env("RUSTFLAGS", "-C target-feature=+crt-static");
        }
        run_command(&mut command).with_context(|| match target {
            Some(target) => format!("is the target installed? `rustup target add {target}`, and a C compiler for it"),
            None => "the program can't be built".to_owned(),
        })?;
        let program = folder.join("release").join(self.program);
        if self.is_static {
            check_static(&program)?;
        }
        Ok(program)
    }

    /// Lays the files out as they will be installed.
    fn stage(&self, program: &Path, out: &Path) -> anyhow::Result<PathBuf> {
        let tree = out.join(format!("{}.tree", self.package));
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        let place = |from: &Path, to: &str| -> anyhow::Result<()> {
            let to = tree.join(to);
            fs::create_dir_all(to.parent().expect("a joined path has a parent"))?;
            fs::copy(from, &to).with_context(|| format!("{} can't be copied", from.display()))?;
            Ok(())
        };
        place(program, &format!("usr/bin/{}", self.program))?;
        if let Some(unit) = self.unit {
            place(&root().join("xtask/dist").join(unit), &format!("usr/lib/systemd/system/{unit}"))?;
        }
        for document in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            place(&root().join(document), &format!("usr/share/doc/{}/{document}", self.package))?;
        }
        Ok(tree)
    }

    /// Packs the tree as a Debian package: an `ar` archive of a version, the control files, and the tree.
    fn deb(&self, tree: &Path, architecture: &str, out: &Path) -> anyhow::Result<PathBuf> {
        let control = out.join(format!("{}.control", self.package));
        fs::create_dir_all(&control)?;
        // A daemon has a user of its own.
        let mut depends: Vec<String> = self.unit.iter().map(|_| "adduser".to_owned()).collect();
        if !self.is_static {
            let program = fs::read(tree.join("usr/bin").join(self.program))?;
            let (major, minor) = glibc_needed(&program).context("the program names no version of glibc")?;
            depends.extend([format!("libc6 (>= {major}.{minor})"), "libgcc-s1".to_owned()]);
        }
        let depends = if depends.is_empty() { String::new() } else { format!("Depends: {}\n", depends.join(", ")) };
        fs::write(
            control.join("control"),
            format!(
                "Package: {}\nVersion: {VERSION}\nArchitecture: {architecture}\nMaintainer: The Headwater authors \
                 <packages@headwater.invalid>\n{depends}Section: net\nPriority: optional\nDescription: {}\n",
                self.package, self.description
            ),
        )?;
        for (script, unit) in ["postinst", "prerm"].iter().filter_map(|script| self.unit.map(|unit| (script, unit))) {
            let text = fs::read_to_string(root().join("xtask/dist").join(script))?.replace("@UNIT@", unit);
            let path = control.join(script);
            fs::write(&path, text)?;
            run_command(Command::new("chmod").arg("755").arg(&path))?;
        }
        let (control_tar, data_tar) = (out.join("control.tar.gz"), out.join("data.tar.gz"));
        tar(&control, &control_tar, "--format=gnu")?;
        tar(tree, &data_tar, "--format=gnu")?;
        let deb = out.join(format!("{}_{VERSION}_{architecture}.deb", self.package));
        let members = [
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar.gz", fs::read(&control_tar)?),
            ("data.tar.gz", fs::read(&data_tar)?),
        ];
        fs::write(&deb, ar(&members)?)?;
        fs::remove_dir_all(&control)?;
        fs::remove_file(control_tar)?;
        fs::remove_file(data_tar)?;
        Ok(deb)
    }
}

/// A gzipped tar of `folder`, the same bytes for the same files.
fn tar(folder: &Path, to: &Path, option: &str) -> anyhow::Result<()> {
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", option]);
    run_command(command.arg("-czf").arg(to).arg("-C").arg(folder).arg("."))
}

/// An `ar` archive: a magic, then for each member a header of 60 bytes and its data, padded to an even length.
fn ar(members: &[(&str, Vec<u8>)]) -> anyhow::Result<Vec<u8>> {
    let mut archive = b"!<arch>\n".to_vec();
    for (name, data) in members {
        writeln!(archive, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, "100644", data.len())?;
        archive.extend_from_slice(data);
        if data.len() % 2 == 1 {
            archive.push(b'\n');
        }
    }
    Ok(archive)
}

/// Fails if the program needs a dynamic linker.
fn check_static(program: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(program)?;
    // PT_INTERP is the only place in which these paths stand.
    let needs_linker = [&b"/lib64/ld-linux"[..], b"/lib/ld-linux", b"/lib/ld-musl"]
        .iter()
        .any(|linker| bytes[..bytes.len().min(4096)].windows(linker.len()).any(|window| window == *linker));
    if needs_linker {
        bail!("{} is not linked statically", program.display());
    }
    Ok(())
}

/// The newest version of glibc whose symbols a program uses: `GLIBC_2.34` stands in its table of needed versions.
fn glibc_needed(program: &[u8]) -> Option<(u32, u32)> {
    const MARK: &[u8] = b"GLIBC_";
    let starts = program.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let versions = starts.filter_map(|(at, _)| {
        let rest = &program[at + MARK.len()..];
        let text = &rest[..rest.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count()];
        let mut numbers = std::str::from_utf8(text).ok()?.split('.').map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    versions.max()
}

fn debian_architecture(target: &str) -> anyhow::Result<&'static str> {
    match target.split('-').next() {
        Some("x86_64") => Ok("amd64"),
        Some("aarch64") => Ok("arm64"),
        Some("armv7") => Ok("armhf"),
        Some("riscv64gc") => Ok("riscv64"),
        _ => bail!("no Debian architecture is known for {target}"),
    }
}

/// The target that this machine is.
fn host() -> anyhow::Result<String> {
    let text = output(Command::new("rustc").arg("-vV").current_dir(root()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
    Ok(line.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const DUMMY: Product = Product {
        package: "headwater-agent",
        source: "edge-agent",
        program: "edge-agent",
        unit: Some("headwater-agent.service"),
        description: "a package for a test",
        is_static: false,
    };

    #[test]
    fn the_newest_glibc_symbol_decides_what_a_package_depends_on() {
        let program = b"\x7fELF\0GLIBC_2.4\0GLIBC_2.34\0GLIBC_2.14\0GLIBC_PRIVATE\0GLIBC_2.9.1\0";
        assert_eq!(glibc_needed(program), Some((2, 34)));
        assert_eq!(glibc_needed(b"no version here"), None);
    }

    #[test]
    fn a_package_holds_the_program_its_unit_and_what_it_depends_on() {
        let out = tempfile::tempdir().unwrap();
        let program = out.path().join("program");
        fs::write(&program, b"\x7fELF\0GLIBC_2.34\0").unwrap();
        let tree = DUMMY.stage(&program, out.path()).unwrap();
        let deb = DUMMY.deb(&tree, "amd64", out.path()).unwrap();
        let list = |member: &str, arguments: &[&str]| {
            let taken = Command::new("ar").arg("p").arg(&deb).arg(member).output().unwrap().stdout;
            let path = out.path().join(member);
            fs::write(&path, taken).unwrap();
            output(Command::new("tar").args(arguments).arg("-f").arg(&path)).unwrap()
        };
        let control = list("control.tar.gz", &["-xzO", "./control"]);
        assert!(control.contains("Package: headwater-agent\n"), "{control}");
        assert!(control.contains("Depends: adduser, libc6 (>= 2.34), libgcc-s1\n"), "{control}");
        let data = list("data.tar.gz", &["-tz"]);
        for wanted in ["./usr/bin/edge-agent", "./usr/lib/systemd/system/headwater-agent.service"] {
            assert!(data.lines().any(|line| line == wanted), "{wanted} is not in it:\n{data}");
        }
        let scripts = list("control.tar.gz", &["-xzO", "./postinst", "./prerm"]);
        assert!(scripts.contains("headwater-agent.service") && !scripts.contains("@UNIT@"), "{scripts}");
    }

    #[test]
    fn members_are_padded_to_even_lengths() {
        let archive = ar(&[("debian-binary", b"2.0\n".to_vec()), ("odd", b"abc".to_vec())]).unwrap();
        assert_eq!(archive.len(), 8 + 60 + 4 + 60 + 4);
        assert!(archive.starts_with(b"!<arch>\ndebian-binary   0           "));
    }
}
