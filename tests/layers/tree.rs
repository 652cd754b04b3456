//! A crate as a tree of modules: which there are, what they define, import and mention.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The index of the crate's root module.
pub(crate) const ROOT: usize = 0;

/// One crate.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The path of its root without the file's ending: `src`, `tools/src/ring_dump`,
    /// `tests/engine`.
    pub(crate) name: String,
    /// All modules; parents come before their children, the root is the first.
    pub(crate) modules: Vec<Module>,
    /// Macros with `#[macro_export]`, by name, and the module that has them.
    pub(crate) exported: HashMap<String, usize>,
}

/// A module: a file, or the contents of a `mod name { .. }`.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) parent: Option<usize>,
    pub(crate) file: PathBuf,
    /// Whether it is written inside its parent's file.
    pub(crate) inline: bool,
    /// Whether its macros are also those of its parent: `#[macro_use]`.
    pub(crate) macro_use: bool,
    /// Where files of its children are.
    pub(crate) folder: PathBuf,
    /// What its names stand for. Several things, if namespaces or `cfg`s differ.
    pub(crate) names: HashMap<String, Vec<Named>>,
    /// The same, of names in the bodies of its functions.
    pub(crate) local: HashMap<String, Vec<Named>>,
    /// Variables that its patterns bind.
    pub(crate) bound: Vec<String>,
    /// Paths whose names it imports all.
    pub(crate) globs: Vec<Vec<String>>,
    /// All paths that its code mentions.
    pub(crate) mentions: Vec<Mention>,
    /// The names in the list of layers of its documentation.
    pub(crate) layers: Option<Vec<String>>,
}

/// What a name stands for.
#[derive(Debug, Clone)]
pub(crate) enum Named {
    Module(usize),
    /// A type, a function, a constant.
    Item,
    Macro,
    /// Something that is defined elsewhere.
    Import(Vec<String>),
}

/// A path in the code.
#[derive(Debug)]
pub(crate) struct Mention {
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
    pub(crate) kind: Kind,
}

/// Where a path is mentioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In a `use`.
    Use,
    /// In a type, an expression, a pattern.
    Inline,
    /// As a macro that is called.
    Macro,
}

impl Tree {
    /// A crate with this root file, of which nothing is read yet.
    pub(crate) fn new(root: &Path) -> Self {
        let folder = root.parent().unwrap_or(Path::new(""));
        let stem = root.file_stem().unwrap_or_default();
        let is_plain = ["lib", "main", "mod"].iter().any(|plain| stem == *plain);
        let name = if is_plain { folder.to_owned() } else { folder.join(stem) };
        let root = Module::new("crate", None, root, folder);
        Self { name: name.display().to_string(), modules: vec![root], exported: HashMap::new() }
    }

    /// Adds a module, and its name to its parent.
    pub(crate) fn add(&mut self, module: Module) -> usize {
        let index = self.modules.len();
        let parent = module.parent.expect("a child");
        self.modules[parent].define(&module.name, Named::Module(index));
        self.modules.push(module);
        index
    }

    /// Adds a module that is written in its parent's file.
    pub(crate) fn add_inline(&mut self, name: &str, parent: usize, macro_use: bool) -> usize {
        let Module { file, folder, .. } = &self.modules[parent];
        let mut module = Module::new(name, Some(parent), file, &folder.join(name));
        module.inline = true;
        module.macro_use = macro_use;
        self.add(module)
    }

    /// The module whose file has this module's code.
    pub(crate) fn file_of(&self, mut module: usize) -> usize {
        while self.modules[module].inline {
            module = self.modules[module].parent.expect("an inline module is a child");
        }
        module
    }

    /// The modules with files around a module's code, from the root to the module itself.
    pub(crate) fn lineage(&self, module: usize) -> Vec<usize> {
        let mut lineage = vec![self.file_of(module)];
        while let Some(parent) = self.modules[lineage[lineage.len() - 1]].parent {
            lineage.push(self.file_of(parent));
        }
        lineage.reverse();
        lineage
    }

    /// A module's place as the list of allowed imports has it: `src`, `src::pool`.
    pub(crate) fn place(&self, module: usize) -> String {
        let lineage = self.lineage(module);
        let names = lineage.iter().skip(1).map(|module| self.modules[*module].name.as_str());
        std::iter::once(self.name.as_str()).chain(names).collect::<Vec<_>>().join("::")
    }
}

impl Module {
    pub(crate) fn new(name: &str, parent: Option<usize>, file: &Path, folder: &Path) -> Self {
        Self {
            name: name.to_owned(),
            parent,
            file: file.to_owned(),
            inline: false,
            macro_use: false,
            folder: folder.to_owned(),
            names: HashMap::new(),
            local: HashMap::new(),
            bound: Vec::new(),
            globs: Vec::new(),
            mentions: Vec::new(),
            layers: None,
        }
    }

    pub(crate) fn define(&mut self, name: &str, named: Named) {
        self.names.entry(name.to_owned()).or_default().push(named);
    }
}

/// A `mod name;`.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) parent: usize,
    pub(crate) macro_use: bool,
    /// What its attribute `#[path]` says.
    pub(crate) path: Option<String>,
}
