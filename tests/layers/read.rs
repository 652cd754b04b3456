//! Reads a crate from its files.

use crate::mentions::Collector;
use crate::tree::{Declared, Module, ROOT, Tree};
use std::path::{Path, PathBuf};

/// How the paragraph before a list of layers begins.
pub(crate) const LAYERS: &str = "Layers, lowest first";

/// Reads a file of the repository; none if there is no such file.
pub(crate) type ReadFile<'a> = &'a dyn Fn(&Path) -> Option<String>;

/// Reads the crate with this root file.
pub(crate) fn read_crate(root: &Path, read: ReadFile<'_>) -> Result<Tree, String> {
    let mut tree = Tree::new(root);
    read_file(&mut tree, ROOT, read)?;
    Ok(tree)
}

/// Reads the file of a module, and then those of its children.
fn read_file(tree: &mut Tree, module: usize, read: ReadFile<'_>) -> Result<(), String> {
    let file = tree.modules[module].file.clone();
    let text = read(&file).ok_or_else(|| format!("{}: cannot be read", file.display()))?;
    let syntax = syn::parse_file(&text).map_err(|error| {
        let line = error.span().start().line;
        format!("{}:{line}: {error}", file.display())
    })?;
    tree.modules[module].layers = layers(&docs(&syntax.attrs));
    let mut collector = Collector::new(tree, module);
    collector.collect(&syntax);
    for declared in collector.into_declared() {
        let (file, folder) = place(&declared, &tree.modules[declared.parent], read)?;
        let mut child = Module::new(&declared.name, Some(declared.parent), &file, &folder);
        child.macro_use = declared.macro_use;
        let child = tree.add(child);
        read_file(tree, child, read)?;
    }
    Ok(())
}

/// The file of a declared module, and where the files of its children are.
fn place(
    declared: &Declared,
    parent: &Module,
    read: ReadFile<'_>,
) -> Result<(PathBuf, PathBuf), String> {
    if let Some(path) = &declared.path {
        // Paths are relative to the folder of the file that has the attribute, plus inline modules
        // around it.
        let base = if parent.inline {
            &parent.folder
        } else {
            parent.file.parent().unwrap_or(Path::new(""))
        };
        let file = normal(&base.join(path));
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        return Ok((file, folder));
    }
    let flat = parent.folder.join(format!("{}.rs", declared.name));
    let folder = parent.folder.join(&declared.name);
    let deep = folder.join("mod.rs");
    [flat, deep]
        .into_iter()
        .find(|file| read(file).is_some())
        .map(|file| (file, folder))
        .ok_or_else(|| format!("{}: no file for `mod {}`", parent.file.display(), declared.name))
}

/// A path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                assert!(normal.pop(), "{} leaves the repository", path.display())
            }
            part => normal.push(part),
        }
    }
    normal
}

/// The text of inner documentation.
fn docs(attributes: &[syn::Attribute]) -> Vec<String> {
    let texts = attributes.iter().filter_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The first words of the fenced block that follows the announcement of a list of layers.
fn layers(docs: &[String]) -> Option<Vec<String>> {
    let mut lines =
        docs.iter().map(|line| line.trim()).skip_while(|line| !line.starts_with(LAYERS));
    lines.next()?;
    let mut block = lines.skip_while(|line| !line.starts_with("```"));
    block.next()?;
    let names = block.take_while(|line| !line.starts_with("```"));
    Some(names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}
