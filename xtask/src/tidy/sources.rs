//! Which paths the source of a room may name, checked on its syntax tree, and how long files and functions are.
//!
//! An item of another crate can be reached only by a path that begins with that crate's name, in an expression, a type,
//! a `use` or a macro's tokens; so looking at the paths of a parsed file finds every use but those that a room re-exports
//! on purpose.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::process::root;

/// Lines of a file, its tests not counted, from which it is reported.
pub(super) const FILE_LINES: usize = 600;
/// Lines of a function from which it is reported.
pub(super) const FUNCTION_LINES: usize = 70;

/// A crate or module that only some places may name.
struct OnlyIn {
    path: &'static str,
    places: &'static [&'static str],
    reason: &'static str,
}

const ONLY_IN: &[OnlyIn] = &[
    OnlyIn { path: "rusqlite", places: &["/src/catalog/", "/tests/", "/catalog.rs"], reason: "SQL lives in catalog/" },
    OnlyIn { path: "rusqlite_migration", places: &["/src/catalog/"], reason: "SQL lives in catalog/" },
    OnlyIn { path: "axum", places: &["/src/admin/"], reason: "HTTP lives in admin/" },
    OnlyIn {
        path: "clap",
        places: &["/src/cli/", "/src/cli.rs", "/src/main.rs", "/examples/"],
        reason: "the command line lives in cli/",
    },
    OnlyIn { path: "object_store", places: &["/src/store/"], reason: "S3 lives in store/" },
];

/// Where a policy is a pure module: the bans of `protocol` hold there too.
const PURE: &[&str] = &[
    "protocol/src/",
    "edge-agent/src/link/policy",
    "edge-agent/src/storage/quota",
    "core-node/src/qos",
    "core-node/src/cache/policy",
    "core-node/aggregate/src/",
    "core-node/src/cluster/placement",
    "core-node/src/store/commit_order",
];

/// What a pure module does not name: time, randomness, files and sockets come in as arguments.
const IMPURE: &[&str] = &[
    "fastrand",
    "getrandom",
    "mio",
    "quinn",
    "rand",
    "rusqlite",
    "rustix",
    "socket2",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::collections::hash_map",
    "std::collections::hash_set",
    "std::env",
    "std::fs",
    "std::hash::RandomState",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
];

/// The only places that may switch the ban on unsafe code off.
const UNSAFE_IN: &[&str] = &["protocol/fabric/src/rdma/", "client/python/src/buffer.rs"];

/// What a look at all sources found.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) files: usize,
    pub(super) lines: usize,
    pub(super) findings: Vec<String>,
    pub(super) long: Vec<String>,
}

/// Looks at every Rust file of the repository.
pub(super) fn survey() -> anyhow::Result<Survey> {
    let mut survey = Survey::default();
    let mut folders = vec![root().to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("{} can't be read", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && !path.is_symlink() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    for file in files {
        look_at(&file, &mut survey)?;
    }
    Ok(survey)
}

fn look_at(file: &PathBuf, survey: &mut Survey) -> anyhow::Result<()> {
    let shown = file.strip_prefix(root()).unwrap_or(file).to_string_lossy().into_owned();
    let text = fs::read_to_string(file).with_context(|| format!("{shown} can't be read"))?;
    survey.files += 1;
    if !text.starts_with("//!") {
        survey.findings.push(format!("{shown} does not open with `//!`: what it is, why it exists, what always holds"));
    }
    let parsed = match syn::parse_file(&text) {
        Ok(parsed) => parsed,
        Err(error) => {
            survey.findings.push(format!("{shown}:{} can't be parsed: {error}", error.span().start().line));
            return Ok(());
        }
    };
    let mut look = Look { is_test: is_test_file(file), shown, survey, test_lines: 0 };
    look.visit_file(&parsed);
    let (shown, test_lines) = (look.shown, look.test_lines);
    let lines = text.lines().count().saturating_sub(test_lines);
    if !is_test_file(file) {
        survey.lines += lines;
        if lines > FILE_LINES {
            survey.long.push(format!("{shown}: {lines} lines"));
        }
    }
    Ok(())
}

fn is_test_file(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests") || file.file_stem().is_some_and(|stem| stem == "tests")
}

/// The visitor of one file.
struct Look<'s> {
    shown: String,
    is_test: bool,
    survey: &'s mut Survey,
    test_lines: usize,
}

impl Look<'_> {
    /// A path that the source names, as `std::time::Instant`.
    fn named(&mut self, path: &str, line: usize) {
        let Self { shown, survey, .. } = self;
        for rule in ONLY_IN.iter().filter(|rule| begins_with(path, rule.path)) {
            let exempt = shown.starts_with("xtask/") || shown.starts_with("simulations/");
            if !exempt && !rule.places.iter().any(|place| shown.contains(place)) {
                survey.findings.push(format!("{shown}:{line} names `{path}`: {}", rule.reason));
            }
        }
        let is_pure = PURE.iter().any(|pure| shown.starts_with(pure));
        if is_pure && !self.is_test && IMPURE.iter().any(|impure| begins_with(path, impure)) {
            survey.findings.push(format!("{shown}:{line} names `{path}`, and this module is pure"));
        }
    }

    fn named_by_use(&mut self, tree: &syn::UseTree, prefix: &str) {
        let joined =
            |ident: &syn::Ident| if prefix.is_empty() { ident.to_string() } else { format!("{prefix}::{ident}") };
        match tree {
            syn::UseTree::Path(path) => self.named_by_use(&path.tree, &joined(&path.ident)),
            syn::UseTree::Name(name) => self.named(&joined(&name.ident), name.ident.span().start().line),
            syn::UseTree::Rename(rename) => self.named(&joined(&rename.ident), rename.ident.span().start().line),
            syn::UseTree::Glob(glob) => self.named(&format!("{prefix}::*"), glob.span().start().line),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.named_by_use(item, prefix)),
        }
    }

    /// Paths in a macro's tokens: runs of `ident :: ident`.
    fn named_by_tokens(&mut self, tokens: TokenStream) {
        let mut path = String::new();
        let mut line = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons == 2 {
                        path.push_str("::");
                    } else {
                        self.named(&std::mem::take(&mut path), line);
                        line = ident.span().start().line;
                    }
                    path.push_str(&ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    colons = 0;
                    self.named_by_tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => colons = 0,
            }
        }
        self.named(&path, line);
    }

    fn function(&mut self, name: &syn::Ident, body: proc_macro2::Span) {
        let lines = body.end().line - body.start().line + 1;
        if lines > FUNCTION_LINES && !self.is_test {
            self.survey.long.push(format!("{}:{} `{name}`: {lines} lines", self.shown, body.start().line));
        }
    }
}

impl<'ast> Visit<'ast> for Look<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let was = self.is_test;
        if module.attrs.iter().any(is_cfg_test) {
            self.is_test = true;
            if !was {
                self.test_lines += module.span().end().line - module.span().start().line + 1;
            }
        }
        visit::visit_item_mod(self, module);
        self.is_test = was;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.named_by_use(&item.tree, "");
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let named = path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>().join("::");
        self.named(&named, path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invoked: &'ast syn::Macro) {
        self.named_by_tokens(invoked.tokens.clone());
        visit::visit_macro(self, invoked);
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.function(
            &function.sig.ident,
            function.sig.span().join(function.block.span()).unwrap_or(function.block.span()),
        );
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.function(
            &function.sig.ident,
            function.sig.span().join(function.block.span()).unwrap_or(function.block.span()),
        );
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            let says = |word: &str| list.tokens.clone().into_iter().any(|token| token.to_string() == word);
            let line = attribute.span().start().line;
            if list.path.is_ident("allow") || list.path.is_ident("expect") {
                if !says("reason") {
                    self.survey.findings.push(format!("{}:{line} lifts a lint and gives no reason", self.shown));
                }
                if says("unsafe_code") && !UNSAFE_IN.iter().any(|place| self.shown.starts_with(place)) {
                    self.survey
                        .findings
                        .push(format!("{}:{line} allows unsafe code, which has its own rooms", self.shown));
                }
            }
            self.named_by_tokens(list.tokens.clone());
        }
    }
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    matches!(&attribute.meta, syn::Meta::List(list) if list.path.is_ident("cfg") && list.tokens.to_string().contains("test"))
}

fn begins_with(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::{Look, Survey};
    use syn::visit::Visit as _;

    fn check(shown: &str, source: &str, breaches: usize) {
        let mut survey = Survey::default();
        let mut look = Look { shown: shown.to_owned(), is_test: false, survey: &mut survey, test_lines: 0 };
        look.visit_file(&syn::parse_file(source).expect("the case parses"));
        assert_eq!(survey.findings.len(), breaches, "{shown}: {source}: {:?}", survey.findings);
    }

    #[test]
    fn each_way_to_name_a_banned_thing_is_seen() {
        let pure = "protocol/src/sync/sender.rs";
        check(pure, "use std::time::{Duration, Instant};", 1);
        check(pure, "use std::{fs as files, time::SystemTime};", 2);
        check(pure, "fn now() -> u64 { std::time::SystemTime::now().into() }", 1);
        check(pure, "fn f() { println!(\"{:?}\", std::time::Instant::now()); }", 1);
        check(pure, "struct S { map: std::collections::HashMap<u8, u8> }", 1);
        check(pure, "#[cfg(test)] mod tests { use std::fs; }", 0);
        check(pure, "use std::collections::BTreeMap; use std::time::Duration; mod filesystem {}", 0);
    }

    #[test]
    fn a_room_keeps_its_crate() {
        check("core-node/src/catalog/sqlite.rs", "use rusqlite::Connection;", 0);
        check("core-node/src/ingest/session.rs", "use rusqlite::Connection;", 1);
        check("edge-agent/src/cli/mod.rs", "#[derive(clap::Parser)] struct A;", 0);
        check("edge-agent/src/storage/mod.rs", "#[derive(clap::Parser)] struct A;", 1);
        check("core-node/src/serve.rs", "#![allow(unsafe_code, reason = \"x\")]", 1);
        check("core-node/src/serve.rs", "#![allow(clippy::unwrap_used)]", 1);
    }
}
