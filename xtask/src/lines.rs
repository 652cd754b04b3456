//! `cargo xtask lines`: how long the modules of the library are.

use crate::files;
use crate::output::{self, Outcome};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::AddAssign;
use std::path::Path;
use std::process::ExitCode;

/// How much there is of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Size {
    files: usize,
    lines: usize,
    /// Lines that are neither blank nor a comment.
    code: usize,
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.lines += other.lines;
        self.code += other.code;
    }
}

pub(crate) fn run(repository: &Path, _: &[String]) -> Outcome {
    let src = repository.join("src");
    let mut modules: BTreeMap<String, Size> = BTreeMap::new();
    for file in files::rust_files(&src)? {
        let size = size(&files::read(&file)?);
        *modules.entry(module(file.strip_prefix(&src).unwrap_or(&file))).or_default() += size;
    }
    output::print(&table(&modules))?;
    Ok(ExitCode::SUCCESS)
}

/// The top module of the library to which a file belongs: `pool` for `pool.rs` and `pool/core.rs`.
fn module(file: &Path) -> String {
    let first = file.components().next().expect("a name");
    Path::new(&first).with_extension("").display().to_string()
}

fn size(text: &str) -> Size {
    let mut size = Size { files: 1, ..Size::default() };
    let mut depth = 0;
    for line in text.lines() {
        size.lines += 1;
        size.code += usize::from(has_code(line.trim(), &mut depth));
    }
    size
}

/// Whether a line has code. `depth` is how many block comments are open around it.
///
/// A string may have the sign of a comment in it. Its line is one of code nevertheless, because the
/// string begins before that sign.
fn has_code(line: &str, depth: &mut usize) -> bool {
    let mut rest = line;
    let mut has_code = false;
    while !rest.is_empty() {
        if *depth == 0 && rest.starts_with("//") {
            break;
        } else if rest.starts_with("/*") && (*depth > 0 || !has_code) {
            *depth += 1;
            rest = &rest[2..];
        } else if *depth > 0 && rest.starts_with("*/") {
            *depth -= 1;
            rest = &rest[2..];
        } else {
            let first = rest.chars().next().expect("a sign");
            has_code |= *depth == 0 && !first.is_whitespace();
            rest = &rest[first.len_utf8()..];
        }
    }
    has_code
}

fn table(modules: &BTreeMap<String, Size>) -> String {
    let mut total = Size::default();
    modules.values().for_each(|size| total += *size);
    let width = modules.keys().map(String::len).chain(["module".len()]).max().expect("a name");
    let mut text = format!("{:width$}  {:>5}  {:>6}  {:>6}\n", "module", "files", "lines", "code");
    let rows = modules.iter().map(|(name, size)| (name.as_str(), size)).chain([("total", &total)]);
    for (name, Size { files, lines, code }) in rows {
        writeln!(text, "{name:width$}  {files:>5}  {lines:>6}  {code:>6}").expect("room");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blank_lines_are_no_code() {
        let text =
            "//! What.\n\nfn f() {\n    // Why.\n    g(); // Here.\n    /* Not\n    this */\n}\n";
        assert_eq!(size(text), Size { files: 1, lines: 8, code: 3 });
        assert_eq!(size("/* a /* b */\nc */ d\ne\n"), Size { files: 1, lines: 3, code: 2 });
        assert_eq!(size("x(\"/*\");\ny(\"http://z\");\n"), Size { files: 1, lines: 2, code: 2 });
    }

    #[test]
    fn files_belong_to_the_module_at_the_top() {
        let of = |file: &str| module(Path::new(file));
        assert_eq!(
            [of("pool.rs"), of("pool/core.rs"), of("pool/a/mod.rs")],
            ["pool", "pool", "pool"]
        );
        assert_eq!(of("lib.rs"), "lib");
    }

    #[test]
    fn the_total_is_the_sum() {
        let one = Size { files: 1, lines: 20, code: 10 };
        let modules =
            [("ring".to_owned(), one), ("pool".to_owned(), Size { files: 2, ..one })].into();
        let rows = [
            "module  files   lines    code",
            "pool        2      20      10",
            "ring        1      20      10",
        ];
        assert_eq!(
            table(&modules),
            format!("{}\ntotal       3      40      20\n", rows.join("\n"))
        );
    }
}
