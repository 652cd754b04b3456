//! Tests of the checker itself, on small crates that exist only here.

use crate::allowed::Allowed;
use crate::read::{ReadFile, read_crate};
use crate::rules;
use std::path::Path;

/// A library with two layers, `low` and `high`, the first of which has a type.
const ROOT: (&str, &str) = (
    "src/lib.rs",
    "//! Layers, lowest first. More words.\n//!\n\
     //! ```text\n//! low   what it is\n//! high  what it is\n//! ```\n\
     mod low;\nmod high;\n",
);
const LOW: (&str, &str) = ("src/low.rs", "pub struct Low;\n");
const HIGH: (&str, &str) = ("src/high.rs", "pub struct High;\npub fn climb() {}\n");

/// What is wrong with a crate, of which the first file is the root.
fn check(files: &[(&str, &str)], allowed: &str) -> Vec<String> {
    let read: ReadFile<'_> = &|path| {
        let file = files.iter().find(|(name, _)| path == Path::new(name));
        file.map(|(_, text)| (*text).to_owned())
    };
    let mut allowed = Allowed::parse(allowed).expect("a list");
    let root = Path::new(files[0].0);
    let tree = read_crate(root, read).expect("a crate");
    let mut problems = rules::check(&tree, root == Path::new("src/lib.rs"), &mut allowed);
    problems.extend(allowed.stale());
    problems
}

/// The problem of a library whose lower layer is this, and whose list is in order.
#[track_caller]
fn problem_of_low(low: &str) -> String {
    let mut problems = check(&[ROOT, ("src/low.rs", low), HIGH], "");
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

#[track_caller]
fn assert_upward(problem: &str, place: &str) {
    assert!(
        problem
            .starts_with("src: `low` imports from `high`, which comes later in the list of layers"),
        "{problem}"
    );
    assert!(problem.contains(place), "{place} is missing in: {problem}");
}

/// Code of an ordered library, in which the lower layer is this, that has no problem.
#[track_caller]
fn assert_sound(files: &[(&str, &str)]) {
    assert_eq!(check(files, ""), Vec::<String>::new());
}

#[test]
fn downward_imports_are_right() {
    assert_sound(&[
        ROOT,
        LOW,
        ("src/high.rs", "use crate::low::Low;\npub struct High(super::low::Low);\n"),
    ]);
}

#[test]
fn an_upward_use_is_wrong() {
    assert_upward(
        &problem_of_low("\nuse crate::high::High;\n"),
        "src/low.rs:2: crate::high::High (High)",
    );
}

#[test]
fn upward_uses_in_a_group_with_other_names_are_wrong() {
    let problem =
        problem_of_low("use std::{fmt, io};\nuse crate::{\n    high::{self, High as Tall},\n};\n");
    assert_upward(&problem, "src/low.rs:3: crate::high (high)");
    assert_upward(&problem, "src/low.rs:3: crate::high::High (High)");
}

#[test]
fn an_upward_use_in_a_function_is_wrong() {
    assert_upward(
        &problem_of_low("fn f() {\n    use super::high as h;\n    h::climb();\n}\n"),
        "src/low.rs:3: h::climb",
    );
}

#[test]
fn an_upward_glob_is_wrong() {
    let problem = problem_of_low("use crate::high::*;\nfn f(_: High) {}\n");
    assert_upward(&problem, "src/low.rs:1: crate::high (high)");
    assert_upward(&problem, "src/low.rs:2: High (High)");
}

#[test]
fn upward_inline_paths_are_wrong() {
    assert_upward(
        &problem_of_low("fn f(_: crate::high::High) {}\n"),
        "src/low.rs:1: crate::high::High (High)",
    );
    assert_upward(
        &problem_of_low("fn f() { super::high::climb() }\n"),
        "src/low.rs:1: super::high::climb (climb)",
    );
    assert_upward(&problem_of_low("impl PartialEq<crate::high::High> for () {}"), "src/low.rs:1:");
    assert_upward(
        &problem_of_low("fn f(x: u8) { if let crate::high::ONE = x {} }"),
        "src/low.rs:1:",
    );
}

#[test]
fn an_upward_path_by_two_parents_is_wrong() {
    let problems = check(
        &[
            ROOT,
            ("src/low.rs", "mod deep;"),
            ("src/low/deep.rs", "use super::super::high::High;"),
            HIGH,
        ],
        "",
    );
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_upward(&problems[0], "src/low/deep.rs:1: super::super::high::High (High)");
}

#[test]
fn an_upward_path_from_an_inline_module_is_wrong() {
    let problem = problem_of_low(
        "mod inner {\n    mod most {\n        use super::super::super::high::High;\n    }\n}\n",
    );
    assert_upward(&problem, "src/low.rs:3: super::super::super::high::High (High)");
}

#[test]
fn upward_paths_in_macros_are_wrong() {
    assert_upward(
        &problem_of_low("fn f() { assert!(1 < 2, \"{}\", crate::high::climb()); }"),
        "crate::high::climb",
    );
    assert_upward(
        &problem_of_low("macro_rules! m { () => { $crate::high::climb() }; }"),
        "crate::high::climb",
    );
    assert_upward(
        &problem_of_low("m! { use super::high::{High, a::b}; }"),
        "super::high::High (High)",
    );
}

#[test]
fn an_upward_path_in_an_attribute_is_wrong() {
    let named = "struct S { #[serde(with = \"crate::high::time\")] s: u8 }";
    assert_upward(&problem_of_low(named), "src/low.rs:1: crate::high::time (time)");
    let imported = "use super::high;\nstruct S {\n#[serde(with = \"high::time\")]\ns: u8 }";
    assert_upward(&problem_of_low(imported), "src/low.rs:3: high::time (time)");
}

#[test]
fn an_exported_macro_belongs_to_its_module() {
    let high =
        ("src/high.rs", "#[macro_export]\nmacro_rules! kill_point { ($name:literal) => {}; }\n");
    let low = ("src/low.rs", "fn f() {\n    crate::kill_point!(\"here\");\n}\n");
    let problems = check(&[ROOT, low, high], "");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_upward(&problems[0], "src/low.rs:2: crate::kill_point (kill_point)");
    let low = ("src/low.rs", "use crate::kill_point;\nfn f() { kill_point!(\"here\"); }\n");
    let problems = check(&[ROOT, low, high], "");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_upward(&problems[0], "src/low.rs:1: crate::kill_point (kill_point)");
}

#[test]
fn a_macro_that_a_module_imports_belongs_to_its_definer() {
    let high = ("src/high.rs", "macro_rules! event { () => {}; }\npub(crate) use event;\n");
    let low = ("src/low.rs", "fn f() {\n    crate::high::event!();\n}\n");
    let problems = check(&[ROOT, low, high], "");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_upward(&problems[0], "src/low.rs:2: crate::high::event (event)");
}

#[test]
fn a_macro_in_scope_by_its_place_belongs_to_its_definer() {
    let root = ("src/lib.rs", "#[macro_use]\nmod a;\nmod b;\n");
    let a = ("src/a.rs", "macro_rules! shared { () => {}; }\nuse crate::b::B;\n");
    let b = ("src/b.rs", "pub struct B;\nfn f() { shared!(); }\n");
    let problems = check(&[root, a, b], "");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("src/b.rs:2: shared (shared)"), "{problems:?}");
}

#[test]
fn the_library_may_not_use_its_reexports() {
    let root = format!(
        "{}pub use low::Low;\nmod inner {{ pub use crate::low::Other; }}\npub use inner::*;\n",
        ROOT.1
    );
    for (path, name) in [("crate::Low", "Low"), ("super::Low", "Low"), ("crate::Other", "Other")] {
        let high = format!("\nuse {path};\npub struct High;\n");
        let files = [
            ("src/lib.rs", root.as_str()),
            ("src/low.rs", "pub struct Low;"),
            ("src/high.rs", &high),
        ];
        let problems = check(&files, "");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].starts_with("src: `high` uses re-exports of the crate root"),
            "{problems:?}"
        );
        assert!(problems[0].contains(&format!("src/high.rs:2: {path} ({name})")), "{problems:?}");
        assert_eq!(check(&files, &format!("src: high -> crate ({name})")), Vec::<String>::new());
    }
}

#[test]
fn a_reexport_at_the_root_hides_no_upward_import() {
    let root = format!("{}pub use high::High;\n", ROOT.1);
    let files = [("src/lib.rs", root.as_str()), ("src/low.rs", "use crate::High;"), HIGH];
    let problems = check(&files, "");
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_upward(&problems[1], "src/low.rs:1: crate::High (High)");
}

#[test]
fn a_reexport_of_a_sibling_hides_no_circle() {
    let root = ("src/lib.rs", "mod pool;\n");
    let pool =
        ("src/pool.rs", "mod keeper;\nmod shared;\npub use shared::Shared;\nuse keeper::open;\n");
    let keeper = ("src/pool/keeper.rs", "use super::Shared;\npub fn open() {}\n");
    let shared = ("src/pool/shared.rs", "pub struct Shared;\nfn f() {\n    super::open();\n}\n");
    let problems = check(&[root, pool, keeper, shared], "");
    assert_eq!(problems.len(), 1, "{problems:?}");
    let problem = &problems[0];
    assert!(
        problem.starts_with("src::pool: these modules depend on each other: keeper, shared"),
        "{problem}"
    );
    assert!(problem.contains("src/pool/keeper.rs:1: super::Shared (Shared)"), "{problem}");
    assert!(problem.contains("src/pool/shared.rs:3: super::open (open)"), "{problem}");
}

#[test]
fn a_glob_of_the_parent_hides_no_circle() {
    let root = ("src/main.rs", "mod a;\nmod b;\nuse a::A;\nuse b::B;\nstruct Own;\n");
    let a = ("src/a.rs", "use super::*;\npub struct A(B, Own);\n");
    let b = ("src/b.rs", "use super::*;\npub struct B;\nfn f(a: u8) -> A { let x = a; g(x) }\n");
    let problems = check(&[root, a, b], "");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("src/a.rs:2: B (B)"), "{problems:?}");
    assert!(problems[0].contains("src/b.rs:3: A (A)"), "{problems:?}");
}

#[test]
fn a_module_that_passes_a_name_on_is_used_too() {
    let root = ("src/lib.rs", "mod a;\nmod b;\nmod c;\n");
    let a = ("src/a.rs", "pub use crate::c::Thing;\nuse crate::b::Other;\n");
    let b = ("src/b.rs", "use crate::a::Thing;\npub struct Other;\n");
    let problems = check(&[root, a, b, ("src/c.rs", "pub struct Thing;")], "");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("src: these modules depend on each other: a, b\n"),
        "{problems:?}"
    );
}

#[test]
fn folders_are_compared_by_what_is_in_them() {
    let root = ("src/lib.rs", "mod client;\nmod memory;\n");
    let client = ("src/client/mod.rs", "pub mod options;\n");
    let options = ("src/client/options.rs", "use crate::memory::Line;\npub struct Options;\n");
    let memory = ("src/memory.rs", "mod mapped;\npub struct Line;\n");
    let mapped = ("src/memory/mapped.rs", "use crate::client::options::Options;\n");
    let problems = check(&[root, client, options, memory, mapped], "");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("src: these modules depend on each other: client, memory\n"),
        "{problems:?}"
    );
}

#[test]
fn a_circle_of_three_is_wrong() {
    let root = ("src/lib.rs", "mod a;\nmod b;\nmod c;\nmod d;\n");
    let files = [
        root,
        ("src/a.rs", "use crate::b::B; use crate::d::D;"),
        ("src/b.rs", "use crate::c::C;"),
        ("src/c.rs", "use crate::a::A;"),
        ("src/d.rs", "use crate::a as _;"),
    ];
    let problems = check(&files, "src: d -> a (a)");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("src: these modules depend on each other: a, b, c\n"),
        "{problems:?}"
    );
    assert_eq!(check(&files, "src: d -> a (a)\nsrc: b -> c (C)"), Vec::<String>::new());
}

#[test]
fn parents_and_children_may_use_each_other() {
    assert_sound(&[
        ("src/lib.rs", "mod a;\npub struct Root;\nfn f(_: a::b::B) {}\n"),
        ("src/a.rs", "pub mod b;\nuse b::B;\npub struct A(B);\n"),
        ("src/a/b.rs", "use super::A;\nuse crate::Root;\npub struct B(Box<A>, Root);\n"),
    ]);
}

#[test]
fn unit_tests_are_not_looked_at() {
    assert_sound(&[
        ROOT,
        (
            "src/low.rs",
            "#[cfg(test)]\nmod tests { use crate::high::High; }\n#[cfg(test)]\nmod model;\n\
             #[cfg(all(test, feature = \"x\"))]\nfn f() { crate::high::climb() }\n\
             #[cfg(test)]\nuse crate::high::High;\n\
             impl X { #[cfg(test)] fn f() { crate::high::climb() } }\n",
        ),
        HIGH,
    ]);
}

#[test]
fn all_other_configurations_are_looked_at() {
    assert_upward(
        &problem_of_low("#[cfg(any(test, feature = \"x\"))]\nuse crate::high::High;"),
        "src/low.rs:2:",
    );
    assert_upward(&problem_of_low("#[cfg(not(test))]\nuse crate::high::High;"), "src/low.rs:2:");
}

#[test]
fn documentation_imports_nothing() {
    assert_sound(&[
        ROOT,
        ("src/low.rs", "/// See [`crate::high::High`] and `super::high`.\npub struct Low;\n"),
        HIGH,
    ]);
}

#[test]
fn other_crates_are_not_confused_with_modules() {
    let root = ("src/lib.rs", "mod tokio;\nmod wait;\n");
    let tokio = (
        "src/tokio.rs",
        "use crate::wait::Wait;\nuse tokio::time::sleep;\npub fn f() { ::wait::g() }\n",
    );
    let wait = (
        "src/wait.rs",
        "pub struct Wait;\n\
         fn f(tokio: u8) { tokio::spawn(g); x.tokio(); m!(a.tokio, ::tokio::b); }\n",
    );
    assert_sound(&[root, tokio, wait]);
}

#[test]
fn modules_in_files_elsewhere_are_found() {
    let root = (
        "benches/src/main.rs",
        "#[path = \"../../examples/world/mod.rs\"]\nmod world;\nmod other;\n",
    );
    let world = ("examples/world/mod.rs", "mod store;\nuse crate::other::Other;\n");
    let store = ("examples/world/store.rs", "pub struct Store;\n");
    let other = ("benches/src/other.rs", "pub struct Other;\nuse crate::world::Here;\n");
    let problems = check(&[root, world, store, other], "");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("benches/src: these modules depend on each other: world, other\n"),
        "{problems:?}"
    );
}

#[test]
fn a_module_without_a_file_is_an_error() {
    let read: ReadFile<'_> =
        &|path| (path == Path::new("src/lib.rs")).then(|| "mod gone;".to_owned());
    let error = read_crate(Path::new("src/lib.rs"), read).expect_err("no file");
    assert_eq!(error, "src/lib.rs: no file for `mod gone`");
}

#[test]
fn a_file_that_cannot_be_parsed_is_an_error() {
    let read: ReadFile<'_> = &|_| Some("\nfn fn\n".to_owned());
    let error = read_crate(Path::new("src/lib.rs"), read).expect_err("no Rust");
    assert!(error.starts_with("src/lib.rs:2: "), "{error}");
}

#[test]
fn every_module_stands_in_the_list_once() {
    let list = |names: &str| {
        let lines: String =
            names.split(' ').map(|name| format!("//! {name}  what it is\n")).collect();
        let root = format!(
            "//! Layers, lowest first:\n//! ```text\n{lines}//! ```\nmod low;\nmod high;\n"
        );
        check(&[("src/lib.rs", &root), LOW, HIGH], "")
    };
    assert_eq!(list("low high"), Vec::<String>::new());
    assert_eq!(list("low"), ["src: `high` is missing in the list \"Layers, lowest first\""]);
    assert_eq!(
        list("low high old"),
        ["src: `old` in the list \"Layers, lowest first\" is no module"]
    );
    assert_eq!(
        list("low high low"),
        ["src: `low` stands twice in the list \"Layers, lowest first\""]
    );
}

#[test]
fn lists_of_inner_modules_are_rules_too() {
    let root = ("src/lib.rs", "mod pool;\n");
    let pool = (
        "src/pool.rs",
        "//! Layers, lowest first:\n//! ```text\n//! a x\n//! b x\n//! ```\nmod a;\nmod b;\n",
    );
    let problems = check(
        &[root, pool, ("src/pool/a.rs", "use super::b::B;"), ("src/pool/b.rs", "pub struct B;")],
        "",
    );
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with(
            "src::pool: `a` imports from `b`, which comes later in the list of layers"
        ),
        "{problems:?}"
    );
}

#[test]
fn an_allowed_import_is_no_problem_but_another_name_is() {
    let low = ("src/low.rs", "use crate::high::High;\nfn f() {\n    crate::high::climb();\n}\n");
    let problems = check(&[ROOT, low, HIGH], "src: low -> high (High)");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_upward(&problems[0], "src/low.rs:3: crate::high::climb (climb)");
    assert!(!problems[0].contains("(High)"), "{problems:?}");
    assert_eq!(check(&[ROOT, low, HIGH], "src: low -> high (High, climb)"), Vec::<String>::new());
    assert_eq!(
        check(&[ROOT, low, HIGH], "src: low -> high (High)\nsrc: low -> high (climb)"),
        Vec::<String>::new()
    );
}

#[test]
fn an_allowed_import_that_is_gone_must_leave_the_list() {
    let problems = check(&[ROOT, LOW, HIGH], "# Today.\n\nsrc: low -> high (High)");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("3: remove `High` of `src: low -> high`"), "{problems:?}");
}

#[test]
fn an_allowed_import_that_is_right_must_leave_the_list() {
    let high = ("src/high.rs", "use crate::low::Low;");
    let problems = check(&[ROOT, LOW, high], "src: high -> low (Low)");
    assert!(problems.len() == 1 && problems[0].starts_with("1: remove `Low`"), "{problems:?}");
    // Nor is one of a module without a list needed that makes no circle.
    let root = ("src/lib.rs", "mod low;\nmod high;\n");
    let problems = check(&[root, LOW, high], "src: high -> low (Low)");
    assert!(problems.len() == 1 && problems[0].starts_with("1: remove `Low`"), "{problems:?}");
}

#[test]
fn bad_lines_in_the_list_of_allowed_imports_are_errors() {
    for line in [
        "src low -> high (High)",
        "src: low high (High)",
        "src: low -> high",
        "src: low -> high (High) x",
    ] {
        let error = Allowed::parse(&format!("# Today.\n{line}\n")).expect_err(line);
        assert_eq!(error, format!("2: not `graph: from -> to (names)`: {line}"));
    }
    let error = Allowed::parse("src: a -> b (X)\nsrc: a -> b (Y, X)\n").expect_err("twice");
    assert_eq!(error, "2: X stands there twice");
}
