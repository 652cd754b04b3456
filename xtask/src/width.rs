//! `cargo xtask width`: no line has more than 100 characters.

use crate::files;
use crate::output::{self, Outcome};
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

/// The most characters of a line.
const MOST: usize = 100;

/// The documents whose prose is looked at, if they are there.
const DOCUMENTS: &[&str] = &["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "DESIGN.md"];

pub(crate) fn run(repository: &Path, _: &[String]) -> Outcome {
    let mut report = String::new();
    let mut number = 0;
    let mut look = |file: &Path, wide: Vec<Wide>| {
        let name = file.strip_prefix(repository).unwrap_or(file).display();
        number += wide.len();
        for Wide { line, characters } in wide {
            writeln!(report, "{name}:{line}: {characters} characters").expect("room");
        }
    };
    for file in files::rust_files(repository)? {
        look(&file, in_code(&files::read(&file)?));
    }
    for document in DOCUMENTS.iter().map(|name| repository.join(name)).filter(|file| file.exists())
    {
        look(&document, in_document(&files::read(&document)?));
    }
    output::print(&report)?;
    if number == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let lines = if number == 1 { "line has" } else { "lines have" };
    Err(format!("{number} {lines} more than {MOST} characters"))
}

/// A line that has too many characters.
#[derive(Debug, PartialEq, Eq)]
struct Wide {
    line: usize,
    characters: usize,
}

/// Lines with their numbers.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}

fn too_wide(line: usize, text: &str) -> Option<Wide> {
    let characters = text.chars().count();
    (characters > MOST).then_some(Wide { line, characters })
}

/// The lines of a source file that are too wide and could be broken. Rows of tables and blocks of
/// code in comments stay as they are, and so do lines with a text in quotes.
fn in_code(text: &str) -> Vec<Wide> {
    let mut wide = Vec::new();
    let mut fence: Option<Fence> = None;
    for (line, text) in numbered(text) {
        let comment = text.trim_start();
        let Some(prose) = comment.strip_prefix("//") else {
            fence = None;
            // The second part of a text in quotes ends like the first one.
            if !text.contains('"') && !text.ends_with('\\') {
                wide.extend(too_wide(line, text));
            }
            continue;
        };
        let prose = prose.trim_start_matches(['/', '!']);
        match (&fence, Fence::of(prose)) {
            (Some(open), Some(sign)) if sign.closes(open) => fence = None,
            (None, Some(sign)) => fence = Some(sign),
            (None, None) if !is_row(prose) => wide.extend(too_wide(line, text)),
            _ => {}
        }
    }
    wide
}

/// The lines of a Markdown document that are too wide and could be broken.
fn in_document(text: &str) -> Vec<Wide> {
    let mut wide = Vec::new();
    let mut fence: Option<Fence> = None;
    for (line, text) in numbered(text) {
        match (&fence, Fence::of(text)) {
            (Some(open), Some(sign)) if sign.closes(open) => fence = None,
            (None, Some(sign)) => fence = Some(sign),
            (None, None) if !is_row(text) && !is_links_only(text) => {
                wide.extend(too_wide(line, text))
            }
            _ => {}
        }
    }
    wide
}

/// The line before or after a block of code.
#[derive(Debug)]
struct Fence {
    sign: char,
    length: usize,
    is_bare: bool,
}

impl Fence {
    fn of(line: &str) -> Option<Self> {
        let line = line.trim();
        let sign = line.chars().next().filter(|sign| matches!(sign, '`' | '~'))?;
        let after = line.trim_start_matches(sign);
        let length = line.len() - after.len();
        // Code within a line begins with backticks, too.
        (length >= 3 && !after.contains('`')).then_some(Self {
            sign,
            length,
            is_bare: after.is_empty(),
        })
    }

    fn closes(&self, open: &Self) -> bool {
        self.is_bare && self.sign == open.sign && self.length >= open.length
    }
}

/// Whether a line is a row of a table.
fn is_row(line: &str) -> bool {
    line.trim_start().starts_with('|')
}

/// Whether a line has links and nothing else that could stand in another line.
fn is_links_only(line: &str) -> bool {
    let mut rest = line.trim();
    let mut links = 0;
    while !rest.is_empty() {
        let after = after_link(rest);
        links += usize::from(after.is_some());
        let next = after.or_else(|| {
            let first = rest.chars().next().filter(|first| !first.is_alphanumeric())?;
            Some(&rest[first.len_utf8()..])
        });
        match next {
            Some(next) => rest = next,
            None => return false,
        }
    }
    links > 0
}

/// What comes after a link at the beginning of a text.
fn after_link(text: &str) -> Option<&str> {
    if text.starts_with("https://") || text.starts_with("http://") {
        let end = text.find(|sign: char| sign.is_whitespace() || matches!(sign, '>' | ')' | ']'));
        return Some(&text[end.unwrap_or(text.len())..]);
    }
    let inside = text.strip_prefix('[')?;
    let mut depth = 1;
    let end = inside.char_indices().find_map(|(at, sign)| {
        match sign {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(at + 1)
    })?;
    let after = &inside[end..];
    if let Some(target) = after.strip_prefix('(') {
        return target.find(')').map(|end| &target[end + 1..]);
    }
    if let Some(target) = after.strip_prefix(": ") {
        // The definition of a link: its target is the rest, which has no spaces.
        let target = target.trim();
        return (!target.contains(char::is_whitespace)).then_some("");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(wide: Vec<Wide>) -> Vec<usize> {
        wide.into_iter().map(|wide| wide.line).collect()
    }

    /// Prose of so many characters.
    fn prose(characters: usize) -> String {
        "word ".chars().cycle().take(characters - 1).chain(['x']).collect()
    }

    #[test]
    fn a_hundred_characters_are_right() {
        let text = format!("{}\n{}\n", prose(100), prose(101));
        assert_eq!(in_code(&text), [Wide { line: 2, characters: 101 }]);
        assert_eq!(in_document(&text), [Wide { line: 2, characters: 101 }]);
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        let text = format!("// {}\n", "é".repeat(97));
        assert_eq!(in_code(&text), []);
    }

    #[test]
    fn comments_of_code_are_looked_at() {
        let wide = prose(100);
        let text = format!("//! {wide}\n/// | {wide} |\n    // {wide}\n{wide}\n");
        assert_eq!(lines(in_code(&text)), [1, 3]);
        let text = format!("//! ```text\n//! {wide}\n//! ```\n//! {wide}\n");
        assert_eq!(lines(in_code(&text)), [4]);
    }

    #[test]
    fn texts_in_quotes_are_not_broken() {
        let wide = prose(101);
        let text = format!("    \"{wide}\"\n    \"{wide} \\\n        {wide}\";\n{wide}\n");
        assert_eq!(lines(in_code(&text)), [4]);
    }

    #[test]
    fn tables_of_documents_may_be_wide() {
        let text = format!("| {} |\n  | {} |\n{} | x\n", prose(100), prose(100), prose(100));
        assert_eq!(lines(in_document(&text)), [3]);
    }

    #[test]
    fn code_in_documents_may_be_wide() {
        let wide = prose(101);
        let text =
            format!("```sh\n{wide}\n```\n{wide}\n~~~~\n{wide}\n```\n~~~\n{wide}\n~~~~\n{wide}\n");
        assert_eq!(lines(in_document(&text)), [4, 11]);
        let text = format!("```code``` in a line\n{wide}\n   ```\n{wide}\n");
        assert_eq!(lines(in_document(&text)), [2]);
    }

    #[test]
    fn lines_of_links_may_be_wide() {
        let name = prose(60);
        let target = format!("https://example.org/{}", "a".repeat(80));
        let links = [
            target.clone(),
            format!("- <{target}>"),
            format!("[{name}]: {target}"),
            format!("* [{name}]({target}),"),
            format!("[a]({target}) · [b]({target})"),
            format!("[![{name}]({target})]({target})"),
        ];
        assert_eq!(lines(in_document(&links.join("\n"))), [0usize; 0]);
        let others = [
            format!("see {target}"),
            format!("[{name}]({target}) and"),
            format!("[{name}] {}", prose(60)),
            format!("[{name}]: {}", prose(60)),
        ];
        assert_eq!(lines(in_document(&others.join("\n"))), [1, 2, 3, 4]);
    }
}
