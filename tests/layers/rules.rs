//! The rules: which imports between modules are wrong.

use crate::allowed::{Allowed, Import};
use crate::read::LAYERS;
use crate::resolve;
use crate::tree::{ROOT, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A place in the code at which a module uses another one.
#[derive(Debug, Clone)]
struct Use {
    /// File and line.
    at: String,
    /// The path as it is written.
    path: String,
    /// The name of what is used.
    name: String,
}

/// Uses between the modules with one parent: from, to, where.
type Graph = BTreeMap<(usize, usize), Vec<Use>>;

/// What is wrong with the imports of a crate. Allowed imports that are wrong are noted as needed.
pub(crate) fn check(tree: &Tree, is_library: bool, allowed: &mut Allowed) -> Vec<String> {
    let (graphs, reexports) = uses(tree);
    let mut problems = Vec::new();
    if is_library {
        for (from, uses) in reexports {
            problems.extend(check_reexports(tree, from, uses, allowed));
        }
    }
    for parent in (0..tree.modules.len()).filter(|module| !tree.modules[*module].inline) {
        let none = Graph::new();
        let graph = graphs.get(&parent).unwrap_or(&none);
        match &tree.modules[parent].layers {
            Some(layers) => problems.extend(check_order(tree, parent, layers, graph, allowed)),
            None => problems.extend(check_circles(tree, parent, graph, allowed)),
        }
    }
    problems
}

/// The uses between siblings, by their parents; and of re-exports at the crate root, by the root's
/// children.
fn uses(tree: &Tree) -> (BTreeMap<usize, Graph>, BTreeMap<usize, Vec<Use>>) {
    let mut graphs: BTreeMap<usize, Graph> = BTreeMap::new();
    let mut reexports: BTreeMap<usize, Vec<Use>> = BTreeMap::new();
    for (index, module) in tree.modules.iter().enumerate() {
        let from = tree.lineage(index);
        for mention in &module.mentions {
            let trail = resolve::trail(tree, index, mention);
            let used = Use {
                at: format!("{}:{}", module.file.display(), mention.line),
                path: mention.path.join("::"),
                name: trail.name,
            };
            if trail.by_reexport && from.len() > 1 {
                reexports.entry(from[1]).or_default().push(used.clone());
            }
            for passed in trail.passed.iter().map(|passed| tree.lineage(*passed)) {
                let common = from.iter().zip(&passed).take_while(|(a, b)| a == b).count();
                let (Some(a), Some(b)) = (from.get(common), passed.get(common)) else { continue };
                let graph = graphs.entry(from[common - 1]).or_default();
                graph.entry((*a, *b)).or_default().push(used.clone());
            }
        }
    }
    (graphs, reexports)
}

/// The library names what it uses where it is defined.
fn check_reexports(
    tree: &Tree,
    from: usize,
    uses: Vec<Use>,
    allowed: &mut Allowed,
) -> Option<String> {
    let wrong: Vec<_> = uses
        .into_iter()
        .filter(|used| !allowed.forgive(&import(tree, ROOT, from, None, used)))
        .collect();
    (!wrong.is_empty()).then(|| {
        let name = &tree.modules[from].name;
        let graph = &tree.name;
        format!(
            "{graph}: `{name}` uses re-exports of the crate root; name the modules themselves{}",
            places(&wrong)
        )
    })
}

/// All modules stand in the list of layers, and import only from those above them.
fn check_order(
    tree: &Tree,
    parent: usize,
    layers: &[String],
    graph: &Graph,
    allowed: &mut Allowed,
) -> Vec<String> {
    let place = tree.place(parent);
    let mut problems = Vec::new();
    let children: BTreeSet<_> =
        children(tree, parent).map(|child| tree.modules[child].name.as_str()).collect();
    for missing in children.iter().filter(|child| !layers.iter().any(|layer| layer == *child)) {
        problems.push(format!("{place}: `{missing}` is missing in the list \"{LAYERS}\""));
    }
    for (index, layer) in layers.iter().enumerate() {
        if !children.contains(layer.as_str()) {
            problems.push(format!("{place}: `{layer}` in the list \"{LAYERS}\" is no module"));
        }
        if layers[..index].contains(layer) {
            problems.push(format!("{place}: `{layer}` stands twice in the list \"{LAYERS}\""));
        }
    }
    let position =
        |module: usize| layers.iter().position(|layer| *layer == tree.modules[module].name);
    for (&(from, to), uses) in graph {
        let (Some(high), Some(low)) = (position(from), position(to)) else { continue };
        if low < high {
            continue;
        }
        let is_wrong = |used: &&Use| !allowed.forgive(&import(tree, parent, from, Some(to), used));
        let wrong: Vec<_> = uses.iter().filter(is_wrong).cloned().collect();
        if !wrong.is_empty() {
            let [from, to] = [from, to].map(|module| &tree.modules[module].name);
            problems.push(format!(
                "{place}: `{from}` imports from `{to}`, which comes later in the list of layers{}",
                places(&wrong)
            ));
        }
    }
    problems
}

/// No modules depend on each other.
fn check_circles(tree: &Tree, parent: usize, graph: &Graph, allowed: &mut Allowed) -> Vec<String> {
    let mut remaining = Graph::new();
    for (&(from, to), uses) in graph {
        let is_unknown = |used: &&Use| !allowed.has(&import(tree, parent, from, Some(to), used));
        let unknown: Vec<_> = uses.iter().filter(is_unknown).cloned().collect();
        if !unknown.is_empty() {
            remaining.insert((from, to), unknown);
        }
    }
    let reached: BTreeMap<_, _> =
        children(tree, parent).map(|module| (module, reachable(&remaining, module))).collect();
    for (&(from, to), uses) in graph {
        if to == from || reached[&to].contains(&from) {
            for used in uses {
                allowed.forgive(&import(tree, parent, from, Some(to), used));
            }
        }
    }
    let mut problems = Vec::new();
    let mut done = BTreeSet::new();
    for (&module, reaches) in &reached {
        let circle: BTreeSet<_> =
            reaches.iter().copied().filter(|other| reached[other].contains(&module)).collect();
        if circle.is_empty() || !done.insert(circle.clone()) {
            continue;
        }
        let names: Vec<_> =
            circle.iter().map(|module| tree.modules[*module].name.as_str()).collect();
        let mut problem = format!(
            "{}: these modules depend on each other: {}",
            tree.place(parent),
            names.join(", ")
        );
        for ((from, to), uses) in &remaining {
            if circle.contains(from) && circle.contains(to) {
                let [from, to] = [from, to].map(|module| &tree.modules[*module].name);
                write!(problem, "\n  {from} -> {to}{}", places(uses)).expect("room");
            }
        }
        problems.push(problem);
    }
    problems
}

/// The modules in files of their own whose parent this is.
fn children(tree: &Tree, parent: usize) -> impl Iterator<Item = usize> {
    (0..tree.modules.len()).filter(move |module| {
        let module = &tree.modules[*module];
        !module.inline && module.parent.is_some_and(|of| tree.file_of(of) == parent)
    })
}

/// All modules that a module depends on; itself, if it is in a circle.
fn reachable(graph: &Graph, from: usize) -> BTreeSet<usize> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        let next = graph.keys().filter(|(from, _)| *from == module).map(|(_, to)| *to);
        open.extend(next.filter(|to| reached.insert(*to)));
    }
    reached
}

/// A use as the list of allowed imports has it. The crate root is no child: its re-exports have no
/// target.
fn import(tree: &Tree, graph: usize, from: usize, to: Option<usize>, used: &Use) -> Import {
    Import {
        graph: tree.place(graph),
        from: tree.modules[from].name.clone(),
        to: to.map_or("crate", |to| &tree.modules[to].name).to_owned(),
        name: used.name.clone(),
    }
}

/// Where the uses are, one a line. Of each name in a file, the first place.
fn places(uses: &[Use]) -> String {
    let mut seen = BTreeSet::new();
    let mut places = String::new();
    for Use { at, path, name } in uses {
        let file = at.split(':').next().expect("a file");
        if seen.insert((file, name)) {
            write!(places, "\n    {at}: {path} ({name})").expect("room");
        }
    }
    places
}
