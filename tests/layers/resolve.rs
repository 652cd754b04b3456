//! What a path stands for: the modules through which it leads, down to the one that defines the
//! name.

use crate::tree::{Kind, Mention, Named, ROOT, Tree};

/// Where a path leads.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    /// The modules in which one of its names, or of those that it is re-exported as, was looked up.
    /// The one that defines the name is among them.
    pub(crate) passed: Vec<usize>,
    /// The name, as its module has it.
    pub(crate) name: String,
    /// Whether it leads through a re-export at the crate root.
    pub(crate) by_reexport: bool,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Module(usize),
    /// Anything else that this crate has.
    Item,
    /// Something of another crate.
    Foreign,
}

/// The trail of a path that is mentioned in this module.
pub(crate) fn trail(tree: &Tree, module: usize, mention: &Mention) -> Trail {
    let mut resolver = Resolver {
        tree,
        kind: mention.kind,
        strict: false,
        active: Vec::new(),
        trail: Trail::default(),
    };
    if mention.path.len() == 1 && mention.kind == Kind::Inline {
        let name = &mention.path[0];
        // A variable, or a word that means nothing alone, such as `self`.
        let is_variable = tree.modules[module].bound.contains(name);
        if is_variable || matches!(name.as_str(), "crate" | "self" | "super" | "Self") {
            return resolver.trail;
        }
    }
    match resolver.start(module, &mention.path) {
        Some(Found::Foreign) | None => {}
        Some(Found::Module(_)) if mention.path.len() == 1 && mention.kind == Kind::Inline => {}
        Some(_) => return resolver.trail,
    }
    // It is not this crate's; but if it leads through a module of this crate, that is used.
    let is_absolute = matches!(mention.path[0].as_str(), "crate" | "self" | "super");
    if is_absolute { resolver.trail } else { Trail::default() }
}

#[derive(Debug)]
struct Resolver<'t> {
    tree: &'t Tree,
    kind: Kind,
    /// Whether a name that is not found is none. Otherwise a macro may have made it.
    strict: bool,
    /// Names that are being looked up, so that circles end.
    active: Vec<(usize, String)>,
    trail: Trail,
}

impl Resolver<'_> {
    /// Resolves a path as it stands in this module.
    fn start(&mut self, module: usize, path: &[String]) -> Option<Found> {
        match path[0].as_str() {
            "crate" => self.within(ROOT, &path[1..]),
            "self" => self.within(module, &path[1..]),
            "super" => self.within(self.tree.modules[module].parent?, &path[1..]),
            _ => self.in_scope(module, path),
        }
    }

    /// A path that begins with a name in the scope of this module.
    fn in_scope(&mut self, module: usize, path: &[String]) -> Option<Found> {
        let tree = self.tree;
        let here = &tree.modules[module];
        self.guarded(module, &path[0], |this| {
            this.candidates(module, here.local.get(&path[0]), path)
                .or_else(|| this.candidates(module, here.names.get(&path[0]), path))
                .or_else(|| this.by_globs(module, path))
        })
        .or_else(|| self.textual_macro(module, path))
    }

    /// The rest of a path, in this module.
    fn within(&mut self, module: usize, rest: &[String]) -> Option<Found> {
        let tree = self.tree;
        let here = &tree.modules[module];
        self.trail.passed.push(module);
        let Some(name) = rest.first() else {
            self.found(&here.name);
            return Some(Found::Module(module));
        };
        match name.as_str() {
            "super" => return self.within(here.parent?, &rest[1..]),
            "self" => return self.within(module, &rest[1..]),
            _ => {}
        }
        let found = self.guarded(module, name, |this| {
            this.candidates(module, here.names.get(name), rest)
                .or_else(|| this.by_globs(module, rest))
        });
        found.or_else(|| self.exported_macro(module, rest)).or_else(|| {
            (!self.strict).then(|| {
                self.found(name);
                Found::Item
            })
        })
    }

    /// Follows all that a name may stand for in this module, each as far as it goes.
    fn candidates(
        &mut self,
        module: usize,
        named: Option<&Vec<Named>>,
        path: &[String],
    ) -> Option<Found> {
        let (name, after) = path.split_first().expect("a name");
        let named = named?;
        let mut first = None;
        let modules_first = named.iter().filter(|named| matches!(named, Named::Module(_)));
        let others = named.iter().filter(|named| !matches!(named, Named::Module(_)));
        for named in modules_first.chain(others) {
            let before = self.trail.passed.len();
            let found = match named {
                Named::Module(child) if self.kind != Kind::Macro || !after.is_empty() => {
                    self.within(*child, after)
                }
                Named::Item if self.kind != Kind::Macro => Some(self.defined_in(module, name)),
                Named::Macro if self.kind != Kind::Inline && after.is_empty() => {
                    Some(self.defined_in(module, name))
                }
                Named::Import(import) => Some(self.imported(module, import, after)),
                _ => None,
            };
            match found {
                None => self.trail.passed.truncate(before),
                Some(found) => first = first.or(Some(found)),
            }
            if first.is_some() && !after.is_empty() {
                break;
            }
        }
        first
    }

    /// What this module imports by this path, and the rest of the path after it.
    fn imported(&mut self, module: usize, import: &[String], after: &[String]) -> Found {
        let before = self.trail.passed.len();
        let is_reexport = before > 0 && self.tree.file_of(module) == ROOT;
        // What is imported by its name exists.
        let strict = std::mem::replace(&mut self.strict, false);
        let found = self.start(module, &[import, after].concat());
        self.strict = strict;
        match found {
            Some(found) if found != Found::Foreign => {
                self.trail.by_reexport |= is_reexport;
                found
            }
            _ => {
                self.trail.passed.truncate(before);
                Found::Foreign
            }
        }
    }

    /// What this module has from another one of which it imports everything.
    fn by_globs(&mut self, module: usize, path: &[String]) -> Option<Found> {
        let tree = self.tree;
        let outer = std::mem::replace(&mut self.strict, true);
        let kind = std::mem::replace(&mut self.kind, Kind::Use);
        let mut found = None;
        for glob in &tree.modules[module].globs {
            let (before, name) = (self.trail.passed.len(), self.trail.name.clone());
            self.kind = Kind::Use;
            let target = self.start(module, glob);
            (self.kind, self.trail.name) = (kind, name);
            found = match target {
                Some(Found::Module(target)) => self.within(target, path),
                _ => None,
            };
            if found.is_some() {
                break;
            }
            self.trail.passed.truncate(before);
        }
        (self.strict, self.kind) = (outer, kind);
        found
    }

    /// A macro with `#[macro_export]`: its path is the crate root, wherever it is.
    fn exported_macro(&mut self, module: usize, rest: &[String]) -> Option<Found> {
        if module != ROOT || rest.len() != 1 || self.kind == Kind::Inline {
            return None;
        }
        let definer = *self.tree.exported.get(&rest[0])?;
        Some(self.defined_in(definer, &rest[0]))
    }

    /// A macro that is called by its name alone: of an ancestor, or of an ancestor's child with
    /// `#[macro_use]`.
    fn textual_macro(&mut self, module: usize, path: &[String]) -> Option<Found> {
        if path.len() != 1 || self.kind != Kind::Macro {
            return None;
        }
        let tree = self.tree;
        let has = |module: usize| {
            let named = tree.modules[module].names.get(&path[0]);
            named.is_some_and(|named| named.iter().any(|named| matches!(named, Named::Macro)))
        };
        let mut scope = Some(module);
        while let Some(ancestor) = scope {
            let lends = |child: &usize| {
                let child = &tree.modules[*child];
                child.macro_use && child.parent == Some(ancestor)
            };
            let definer = has(ancestor).then_some(ancestor);
            let definer =
                definer.or_else(|| (0..tree.modules.len()).filter(lends).find(|child| has(*child)));
            if let Some(definer) = definer {
                return Some(self.defined_in(definer, &path[0]));
            }
            scope = tree.modules[ancestor].parent;
        }
        None
    }

    fn defined_in(&mut self, module: usize, name: &str) -> Found {
        self.trail.passed.push(module);
        self.found(name);
        Found::Item
    }

    /// The first name that is found is that of the path.
    fn found(&mut self, name: &str) {
        if self.trail.name.is_empty() {
            name.clone_into(&mut self.trail.name);
        }
    }

    /// Looks a name up, unless that is what is being done.
    fn guarded(
        &mut self,
        module: usize,
        name: &str,
        look: impl FnOnce(&mut Self) -> Option<Found>,
    ) -> Option<Found> {
        let key = (module, name.to_owned());
        if self.active.contains(&key) {
            return None;
        }
        self.active.push(key);
        let found = look(self);
        self.active.pop();
        found
    }
}
