//! The layers of the source tree: nothing imports upward, and no two files of a folder import each
//! other.
//!
//! The test reads every crate of the workspace as a [`tree`] of modules ([`read`]) with all paths
//! that the code mentions ([`mentions`]), resolves these to the modules that define what they name
//! ([`resolve`]), and compares the resulting imports with the rules ([`rules`]):
//!
//! - Two modules with the same parent may not depend on each other, neither directly nor through a
//!   third one. What is inside a module belongs to it, so that this is a rule for folders as well
//!   as for files.
//! - If the documentation of the parent has a list "Layers, lowest first", each of its modules
//!   stands in it once and imports only from those above it in the list. `src/lib.rs` has such a
//!   list.
//! - The library does not use its own re-exports at the crate root.
//!
//! Imports from an ancestor and from a descendant are free. Code for unit tests (`#[cfg(test)]`) is
//! not looked at. All other `cfg`s count as set.
//!
//! `allowed.txt` has the imports that break the rules today ([`allowed`]). It may only become
//! shorter.

mod allowed;
mod fixtures;
mod mentions;
mod read;
mod resolve;
mod rules;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

/// The packages whose crates are looked at, relative to the root of the repository.
const PACKAGES: &[&str] = &[".", "benches", "interop", "loom-tests", "shm-tests", "tools", "xtask"];

/// The allowed imports, relative to the root of the repository.
const ALLOWED: &str = "tests/layers/allowed.txt";

/// Folders of a package in which every file, and every folder with a `main.rs`, is a crate of its
/// own.
const TARGETS: &[&str] = &["tests", "benches", "examples", "src/bin"];

/// The root files of a package's crates, relative to the root of the repository.
fn crate_roots(repository: &Path, package: &str) -> Vec<PathBuf> {
    let package = if package == "." { PathBuf::new() } else { PathBuf::from(package) };
    let directory = repository.join(&package);
    let mut roots = vec![package.join("src/lib.rs"), package.join("src/main.rs")];
    let manifest = fs::read_to_string(directory.join("Cargo.toml")).unwrap_or_default();
    for line in manifest.lines() {
        let named = line.strip_prefix("path = \"").and_then(|rest| rest.strip_suffix(".rs\""));
        roots.extend(named.map(|path| package.join(format!("{path}.rs"))));
    }
    for folder in TARGETS {
        let entries = fs::read_dir(directory.join(folder)).into_iter().flatten();
        for entry in entries.map(|entry| entry.expect("a readable folder")) {
            let path = package.join(folder).join(entry.file_name());
            match path.extension() {
                Some(extension) if extension == "rs" => roots.push(path),
                _ => roots.push(path.join("main.rs")),
            }
        }
    }
    roots.retain(|root| repository.join(root).is_file());
    roots.sort();
    roots.dedup();
    roots
}

/// What is wrong with the imports of the repository.
fn check_repository(repository: &Path) -> Vec<String> {
    let read = |path: &Path| fs::read_to_string(repository.join(path)).ok();
    let mut problems = Vec::new();
    let mut allowed = match allowed::Allowed::parse(&read(Path::new(ALLOWED)).expect(ALLOWED)) {
        Ok(allowed) => allowed,
        Err(problem) => return vec![format!("{ALLOWED}: {problem}")],
    };
    for root in PACKAGES.iter().flat_map(|package| crate_roots(repository, package)) {
        match read::read_crate(&root, &read) {
            Ok(tree) => {
                problems.extend(rules::check(&tree, root == Path::new("src/lib.rs"), &mut allowed))
            }
            Err(problem) => problems.push(problem),
        }
    }
    problems.extend(allowed.stale().map(|stale| format!("{ALLOWED}: {stale}")));
    problems
}

#[test]
fn imports_go_down_only() {
    let problems = check_repository(Path::new(env!("CARGO_MANIFEST_DIR")));
    let number = problems.len();
    assert!(problems.is_empty(), "\n\n{}\n\n{number} problems with imports", problems.join("\n\n"));
}

#[test]
fn the_library_has_a_list_of_its_layers() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| fs::read_to_string(repository.join(path)).ok();
    let tree = read::read_crate(Path::new("src/lib.rs"), &read).expect("a library");
    assert!(
        tree.modules[tree::ROOT].layers.is_some(),
        "no list \"{}\" in src/lib.rs",
        read::LAYERS
    );
}

#[test]
fn all_crates_are_found() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found: Vec<_> =
        PACKAGES.iter().flat_map(|package| crate_roots(repository, package)).collect();
    for root in [
        "src/lib.rs",
        "benches/src/main.rs",
        "shm-tests/src/lib.rs",
        "shm-tests/tests/hostile/main.rs",
        "tools/src/ring_dump/main.rs",
        "tools/src/ring_echo/main.rs",
    ] {
        assert!(found.contains(&PathBuf::from(root)), "{root} is missing in {found:?}");
    }
}
