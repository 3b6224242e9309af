//! The modules of a crate, and the names in them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Meta, UseTree, Visibility};

/// A path as it is written, without generic arguments.
pub(crate) type Names = Vec<String>;

/// A crate, reduced to the names that lead from file to file.
pub(crate) struct Crate {
    /// The first is the root.
    pub(crate) modules: Vec<Module>,
}

/// A module, whether or not it has its own file.
pub(crate) struct Module {
    /// From the crate's root.
    pub(crate) path: Names,
    /// The file it is in.
    pub(crate) file: PathBuf,
    /// The module around it; the root's is itself.
    pub(crate) parent: usize,
    /// Modules in it, by name.
    pub(crate) children: HashMap<String, usize>,
    /// What else it defines.
    pub(crate) items: HashSet<String>,
    /// Its `use`s, including those in functions.
    pub(crate) imports: Vec<Import>,
    /// Paths in its code that may lead elsewhere.
    pub(crate) used: Vec<Names>,
}

/// One name of a `use`.
pub(crate) struct Import {
    /// What the name is called here; `None` for `*`.
    pub(crate) name: Option<String>,
    /// What it stands for.
    pub(crate) path: Names,
    /// Whether it is a re-export.
    pub(crate) public: bool,
}

impl Crate {
    /// The crate with this root file, without what is only for tests.
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut reader = Reader {
            modules: Vec::new(),
            module: 0,
            below: root.parent().unwrap_or(Path::new("")).to_owned(),
            failed: None,
        };
        reader.file(Vec::new(), root.to_owned())?;
        match reader.failed {
            Some(error) => Err(error),
            None => Ok(Crate {
                modules: reader.modules,
            }),
        }
    }
}

struct Reader {
    modules: Vec<Module>,
    /// The module that is being read.
    module: usize,
    /// Where the files of its children are.
    below: PathBuf,
    /// The first error, which a visitor cannot return.
    failed: Option<anyhow::Error>,
}

impl Reader {
    /// Reads the module `path` from its file.
    fn file(&mut self, path: Names, file: PathBuf) -> anyhow::Result<()> {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file:?}"))?;
        let parsed = syn::parse_file(&text).with_context(|| format!("cannot parse {file:?}"))?;
        self.module(path, file, &parsed.items);
        Ok(())
    }

    fn module(&mut self, path: Names, file: PathBuf, items: &[Item]) {
        let (outer, this) = (self.module, self.modules.len());
        if let Some(name) = path.last() {
            self.modules[outer].children.insert(name.clone(), this);
        }
        self.modules.push(Module {
            path,
            file,
            parent: outer,
            children: HashMap::new(),
            items: items.iter().filter_map(name).collect(),
            imports: Vec::new(),
            used: Vec::new(),
        });
        self.module = this;
        items.iter().for_each(|item| self.visit_item(item));
        self.module = outer;
    }

    /// The file of the child module `name`.
    fn child(&self, name: &str) -> anyhow::Result<PathBuf> {
        let at = self.below.join(name);
        let places = [at.with_extension("rs"), at.join("mod.rs")];
        match places.into_iter().find(|place| place.exists()) {
            Some(place) => Ok(place),
            None => bail!("no file for the module {at:?}"),
        }
    }

    fn import(&mut self, tree: &UseTree, before: &Names, public: bool) {
        let then = |name: &syn::Ident| [before.clone(), vec![text(name)]].concat();
        let (name, path) = match tree {
            UseTree::Path(path) => return self.import(&path.tree, &then(&path.ident), public),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, before, public);
                }
                return;
            }
            UseTree::Name(name) if name.ident == "self" => (before.last().cloned(), before.clone()),
            UseTree::Name(name) => (Some(text(&name.ident)), then(&name.ident)),
            UseTree::Rename(name) if name.ident == "self" => {
                (Some(text(&name.rename)), before.clone())
            }
            UseTree::Rename(name) => (Some(text(&name.rename)), then(&name.ident)),
            UseTree::Glob(_) => (None, before.clone()),
        };
        let import = Import { name, path, public };
        self.modules[self.module].imports.push(import);
    }

    fn uses(&mut self, path: Names) {
        self.modules[self.module].used.push(path);
    }

    /// Paths in the tokens of a macro call. Only the macro knows which of them are real, so all
    /// count.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens = Vec::from_iter(tokens);
        let mark = |at: usize, mark| match tokens.get(at) {
            Some(TokenTree::Punct(found)) => found.as_char() == mark,
            _ => false,
        };
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.tokens(group.stream()),
                // What follows a dot is a field or a method.
                TokenTree::Ident(first) if at == 0 || !mark(at - 1, '.') => {
                    let mut path = vec![text(first)];
                    while mark(at + 1, ':')
                        && mark(at + 2, ':')
                        && let Some(TokenTree::Ident(next)) = tokens.get(at + 3)
                    {
                        path.push(text(next));
                        at += 3;
                    }
                    if is_call(tokens.get(at + 1)) || !may_be_a_variable(&path) {
                        self.uses(path);
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }
}

impl<'a> Visit<'a> for Reader {
    fn visit_item(&mut self, item: &'a Item) {
        if !attributes(item).iter().any(for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        let name = text(&item.ident);
        let around = &self.modules[self.module];
        let path = [around.path.clone(), vec![name.clone()]].concat();
        let file = around.file.clone();
        let below = self.below.join(&name);
        match &item.content {
            Some((_, items)) => {
                let outer = std::mem::replace(&mut self.below, below);
                self.module(path, file, items);
                self.below = outer;
            }
            None => {
                let read = self.child(&name).and_then(|file| {
                    let outer = std::mem::replace(&mut self.below, below);
                    let read = self.file(path, file);
                    self.below = outer;
                    read
                });
                if let Err(error) = read {
                    self.failed.get_or_insert(error);
                }
            }
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        if item.leading_colon.is_none() {
            let public = !matches!(item.vis, Visibility::Inherited);
            self.import(&item.tree, &Vec::new(), public);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        if !item.attrs.iter().any(for_tests) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names = names(path);
        if path.leading_colon.is_none() && !may_be_a_variable(&names) {
            self.uses(names);
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_call(&mut self, call: &'a syn::ExprCall) {
        if let syn::Expr::Path(function) = &*call.func {
            let names = names(&function.path);
            if may_be_a_variable(&names) {
                self.uses(names);
            }
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_macro(&mut self, call: &'a syn::Macro) {
        self.tokens(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'a Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }

    // `pub(in crate::a)` says who may use this item, not what it uses.
    fn visit_visibility(&mut self, _: &'a Visibility) {}
}

fn text(name: &syn::Ident) -> String {
    name.unraw().to_string()
}

fn names(path: &syn::Path) -> Names {
    let segments = path.segments.iter();
    segments.map(|segment| text(&segment.ident)).collect()
}

/// Whether `next`, after a name, makes it a call.
fn is_call(next: Option<&TokenTree>) -> bool {
    matches!(next, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
}

/// Types, variants and constants begin with a capital letter, variables do not.
fn may_be_a_variable(path: &[String]) -> bool {
    path.len() == 1 && path[0].starts_with(|first: char| !first.is_uppercase())
}

/// The name that an item defines, unless it is a module.
fn name(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        _ => return None,
    };
    Some(text(name))
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether this attribute restricts something to tests: `#[cfg(test)]`, `#[cfg(all(test, …))]`.
fn for_tests(attribute: &Attribute) -> bool {
    fn needs_test(condition: &Meta) -> bool {
        match condition {
            Meta::Path(path) => path.is_ident("test"),
            Meta::List(list) if list.path.is_ident("all") => list
                .parse_args_with(Punctuated::<Meta, syn::Token![,]>::parse_terminated)
                .is_ok_and(|all| all.iter().any(needs_test)),
            _ => false,
        }
    }
    attribute.path().is_ident("cfg")
        && attribute
            .parse_args::<Meta>()
            .is_ok_and(|condition| needs_test(&condition))
}
