//! The paths in a file: in `use`, in types and expressions, in what macros are called with, in
//! attributes.

use crate::tree::{Declared, Kind, Mention, Named, Tree};
use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Reads the modules of one file into the tree.
#[derive(Debug)]
pub(crate) struct Collector<'t> {
    tree: &'t mut Tree,
    /// The module whose code is visited.
    module: usize,
    /// How many bodies of functions are around it.
    bodies: usize,
    /// Modules with files of their own.
    declared: Vec<Declared>,
}

impl<'t> Collector<'t> {
    pub(crate) fn new(tree: &'t mut Tree, module: usize) -> Self {
        Self { tree, module, bodies: 0, declared: Vec::new() }
    }

    pub(crate) fn collect(&mut self, file: &syn::File) {
        if !file.attrs.iter().any(is_for_tests) {
            self.visit_file(file);
        }
    }

    /// The modules that the file declares and that are in files of their own.
    pub(crate) fn into_declared(self) -> Vec<Declared> {
        self.declared
    }

    fn define(&mut self, name: &str, named: Named) {
        let module = &mut self.tree.modules[self.module];
        let names = if self.bodies == 0 { &mut module.names } else { &mut module.local };
        names.entry(name.to_owned()).or_default().push(named);
    }

    fn mention(&mut self, mut path: Vec<String>, span: Span, kind: Kind) {
        // `name::{self, ..}` among tokens.
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let line = span.start().line;
        self.tree.modules[self.module].mentions.push(Mention { path, line, kind });
    }

    /// What a `use` imports.
    fn import(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let joined = |name: &syn::Ident| [prefix, &[plain(name)]].concat();
        let (path, name, span) = match tree {
            syn::UseTree::Path(path) => return self.import(&joined(&path.ident), &path.tree),
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.import(prefix, tree));
            }
            syn::UseTree::Glob(glob) => {
                self.mention(prefix.to_vec(), glob.span(), Kind::Use);
                return self.tree.modules[self.module].globs.push(prefix.to_vec());
            }
            syn::UseTree::Name(name) if name.ident == "self" => {
                (prefix.to_vec(), prefix.last().cloned().unwrap_or_default(), name.ident.span())
            }
            syn::UseTree::Rename(rename) if rename.ident == "self" => {
                (prefix.to_vec(), plain(&rename.rename), rename.ident.span())
            }
            syn::UseTree::Name(name) => {
                (joined(&name.ident), plain(&name.ident), name.ident.span())
            }
            syn::UseTree::Rename(rename) => {
                (joined(&rename.ident), plain(&rename.rename), rename.ident.span())
            }
        };
        self.mention(path.clone(), span, Kind::Use);
        if name != "_" {
            self.define(&name, Named::Import(path));
        }
    }

    /// Paths among the tokens of a macro's call or definition, or of an attribute.
    fn tokens(&mut self, tokens: TokenStream, where_from: Tokens, prefix: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.tokens(group.stream(), where_from, &[]),
                TokenTree::Literal(literal) if where_from == Tokens::Attribute => {
                    self.literal(literal);
                }
                TokenTree::Ident(_) => {
                    let end = self.path_among(&tokens, at, where_from, prefix);
                    at = end;
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// A path that begins with this token; where it ends.
    fn path_among(
        &mut self,
        tokens: &[TokenTree],
        at: usize,
        from: Tokens,
        prefix: &[String],
    ) -> usize {
        let is = |at: usize, sign: char| match tokens.get(at) {
            Some(TokenTree::Punct(punct)) => punct.as_char() == sign,
            _ => false,
        };
        let is_path_sign = |at: usize| is(at, ':') && is(at + 1, ':');
        let follows_path_sign = at >= 2 && is_path_sign(at - 2);
        let is_variable = at >= 1
            && is(at - 1, '$')
            && !matches!(&tokens[at], TokenTree::Ident(i) if i == "crate");
        let follows_dot = at >= 1 && is(at - 1, '.') && !(at >= 2 && is(at - 2, '.'));
        let mut path = prefix.to_vec();
        let mut end = at;
        let mut span = tokens[at].span();
        while let Some(TokenTree::Ident(ident)) = tokens.get(end) {
            path.push(plain(ident));
            span = ident.span();
            end += 1;
            if !is_path_sign(end) {
                break;
            }
            match tokens.get(end + 2) {
                Some(TokenTree::Ident(_)) => end += 2,
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    self.tokens(group.stream(), from, &path);
                    return end + 3;
                }
                // Generic arguments, `*`.
                _ => break,
            }
        }
        let is_absolute = matches!(path[0].as_str(), "crate" | "self" | "super");
        // `::name` is another crate's, `.name` a method or a field, `$name` a macro's variable.
        if (follows_path_sign || follows_dot || is_variable) && prefix.is_empty() {
            return end;
        }
        let is_call = is(end, '!') && !is(end + 1, '=');
        match from {
            // Names in the body of a macro are those of the place where it is called.
            Tokens::Definition if !is_absolute && !is_call => {}
            _ => self.mention(path, span, if is_call { Kind::Macro } else { Kind::Inline }),
        }
        end
    }

    /// Attributes of serde name functions in strings.
    fn literal(&mut self, literal: &proc_macro2::Literal) {
        let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) else { return };
        let Ok(path) = syn::parse_str::<syn::Path>(&text.value()) else { return };
        if path.leading_colon.is_none() && path.segments.len() > 1 {
            let path = path.segments.iter().map(|segment| plain(&segment.ident)).collect();
            self.mention(path, literal.span(), Kind::Inline);
        }
    }
}

/// Where tokens are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tokens {
    Call,
    Definition,
    Attribute,
}

impl Visit<'_> for Collector<'_> {
    fn visit_item(&mut self, item: &syn::Item) {
        if attributes(item).iter().any(is_for_tests) {
            return;
        }
        if let Some(name) = defined_name(item) {
            self.define(&name, Named::Item);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        let macro_use = item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_use"));
        let name = plain(&item.ident);
        let Some((_, items)) = &item.content else {
            let path = item.attrs.iter().find_map(path_attribute);
            self.declared.push(Declared { name, parent: self.module, macro_use, path });
            return;
        };
        let inner = self.tree.add_inline(&name, self.module, macro_use);
        let (outer, bodies) = (self.module, self.bodies);
        (self.module, self.bodies) = (inner, 0);
        items.iter().for_each(|item| self.visit_item(item));
        (self.module, self.bodies) = (outer, bodies);
    }

    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        if item.leading_colon.is_none() {
            self.import(&[], &item.tree);
        }
    }

    fn visit_item_macro(&mut self, item: &syn::ItemMacro) {
        let Some(name) = item.ident.as_ref().filter(|_| item.mac.path.is_ident("macro_rules"))
        else {
            return visit::visit_item_macro(self, item);
        };
        self.define(&plain(name), Named::Macro);
        if item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export")) {
            self.tree.exported.insert(plain(name), self.module);
        }
        self.tokens(item.mac.tokens.clone(), Tokens::Definition, &[]);
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        if call.path.leading_colon.is_none() {
            let path = call.path.segments.iter().map(|segment| plain(&segment.ident)).collect();
            self.mention(path, call.path.span(), Kind::Macro);
        }
        self.tokens(call.tokens.clone(), Tokens::Call, &[]);
    }

    fn visit_attribute(&mut self, attribute: &syn::Attribute) {
        if ["doc", "cfg", "path"].iter().any(|name| attribute.path().is_ident(name)) {
            return;
        }
        match &attribute.meta {
            syn::Meta::List(list) => self.tokens(list.tokens.clone(), Tokens::Attribute, &[]),
            meta => visit::visit_meta(self, meta),
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        if path.leading_colon.is_none() {
            let names = path.segments.iter().map(|segment| plain(&segment.ident)).collect();
            self.mention(
                names,
                path.segments.first().map_or_else(|| path.span(), |first| first.span()),
                Kind::Inline,
            );
        }
        visit::visit_path(self, path);
    }

    fn visit_pat_ident(&mut self, pattern: &syn::PatIdent) {
        self.tree.modules[self.module].bound.push(plain(&pattern.ident));
        visit::visit_pat_ident(self, pattern);
    }

    fn visit_block(&mut self, block: &syn::Block) {
        self.bodies += 1;
        visit::visit_block(self, block);
        self.bodies -= 1;
    }

    fn visit_impl_item(&mut self, item: &syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Const(item) => &item.attrs,
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Type(item) => &item.attrs,
            syn::ImplItem::Macro(item) => &item.attrs,
            _ => return visit::visit_impl_item(self, item),
        };
        if !attributes.iter().any(is_for_tests) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &syn::Field) {
        if !field.attrs.iter().any(is_for_tests) {
            visit::visit_field(self, field);
        }
    }

    fn visit_local(&mut self, local: &syn::Local) {
        if !local.attrs.iter().any(is_for_tests) {
            visit::visit_local(self, local);
        }
    }
}

/// A name without `r#`.
fn plain(name: &syn::Ident) -> String {
    let name = name.to_string();
    name.strip_prefix("r#").map_or(name.clone(), str::to_owned)
}

/// Whether something is for unit tests only: `cfg(test)`, `cfg(all(test, ..))`.
fn is_for_tests(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Meta>().is_ok_and(|condition| needs_tests(&condition))
}

fn needs_tests(condition: &syn::Meta) -> bool {
    match condition {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("all") => {
            let conditions =
                syn::punctuated::Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated;
            list.parse_args_with(conditions).is_ok_and(|all| all.iter().any(needs_tests))
        }
        _ => false,
    }
}

/// The value of `#[path = ".."]`.
fn path_attribute(attribute: &syn::Attribute) -> Option<String> {
    match &attribute.meta {
        syn::Meta::NameValue(meta) if meta.path.is_ident("path") => match &meta.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) => Some(path.value()),
            _ => None,
        },
        _ => None,
    }
}

/// The attributes of an item.
fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::ExternCrate(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::ForeignMod(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::TraitAlias(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Union(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The name that an item defines, unless it is a module, a macro or an import.
fn defined_name(item: &syn::Item) -> Option<String> {
    let name = match item {
        syn::Item::Const(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Static(item) => &item.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::TraitAlias(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        syn::Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(plain(name))
}
