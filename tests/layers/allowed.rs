//! The imports that break a rule and are known. The list may only become shorter.
//!
//! A line is `graph: from -> to (names)`: in `graph`, a crate or one of its modules, the child
//! `from` uses these names of the child `to`. `to` is `crate` if they are re-exports at the crate
//! root. Several lines may be about the same two modules. A name that need not be allowed any more
//! is stale, and the test fails until it is removed.

use std::collections::BTreeMap;

/// `from` in `graph` uses `name` of `to`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Import {
    pub(crate) graph: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) name: String,
}

/// The list.
#[derive(Debug, Default)]
pub(crate) struct Allowed {
    /// The line at which each stands, and whether it is needed.
    imports: BTreeMap<Import, (usize, bool)>,
}

impl Allowed {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut imports = BTreeMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            if text.trim().is_empty() || text.starts_with('#') {
                continue;
            }
            let entry = parse_line(text);
            let (graph, from, to, names) =
                entry.ok_or_else(|| format!("{line}: not `graph: from -> to (names)`: {text}"))?;
            for name in names.split(',').map(|name| name.trim().to_owned()) {
                let [graph, from, to] = [graph, from, to].map(str::to_owned);
                let import = Import { graph, from, to, name };
                if imports.contains_key(&import) {
                    return Err(format!("{line}: {} stands there twice", import.name));
                }
                imports.insert(import, (line, false));
            }
        }
        Ok(Self { imports })
    }

    pub(crate) fn has(&self, import: &Import) -> bool {
        self.imports.contains_key(import)
    }

    /// Notes that an import breaks a rule. Whether it is allowed.
    pub(crate) fn forgive(&mut self, import: &Import) -> bool {
        self.imports.get_mut(import).map(|(_, needed)| *needed = true).is_some()
    }

    /// What need not be allowed any more.
    pub(crate) fn stale(&self) -> impl Iterator<Item = String> {
        self.imports.iter().filter(|(_, (_, needed))| !needed).map(|(import, (line, _))| {
            let Import { graph, from, to, name } = import;
            format!(
                "{line}: remove `{name}` of `{graph}: {from} -> {to}`: it breaks no rule any more, \
                 and this list may only become shorter"
            )
        })
    }
}

/// Graph, from, to, names.
fn parse_line(line: &str) -> Option<(&str, &str, &str, &str)> {
    let (graph, rest) = line.split_once(": ")?;
    let (from, rest) = rest.split_once(" -> ")?;
    let (to, rest) = rest.split_once(" (")?;
    let names = rest.strip_suffix(')')?;
    let is_complete = [graph, from, to]
        .iter()
        .all(|word| !word.is_empty() && !word.contains(char::is_whitespace));
    is_complete.then_some((graph, from, to, names))
}
