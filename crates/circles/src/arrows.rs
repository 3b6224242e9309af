//! Which file uses names of which other file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::modules::{Crate, Module};

/// What one file (first) uses of another.
pub(crate) type Arrows<'a> = BTreeMap<(&'a Path, &'a Path), BTreeSet<String>>;

/// What a path stands for.
#[derive(Clone)]
enum Found {
    Module(usize),
    /// Something that this module defines or re-exports.
    Item(usize, String),
}

/// What the files of `read` use of each other.
///
/// The `use` of a *module* is not an arrow: the paths that begin with it are. Neither is a module's
/// re-export of what is below it, as when a `mod.rs` has `pub use child::Name`.
pub(crate) fn find(read: &Crate) -> Arrows<'_> {
    let mut arrows = Arrows::new();
    for (at, module) in read.modules.iter().enumerate() {
        let mut arrow = |to: usize, name: &str| {
            let to = &read.modules[to];
            if to.file != module.file {
                let name = [to.path.as_slice(), &[name.to_owned()]].concat().join("::");
                let ends = (module.file.as_path(), to.file.as_path());
                arrows.entry(ends).or_default().insert(name);
            }
        };
        for import in &module.imports {
            let below =
                |to: usize| import.public && read.modules[to].path.starts_with(&module.path);
            match read.resolve(at, &import.path, false, &mut Vec::new()) {
                Some(Found::Item(to, name)) if !below(to) => arrow(to, &name),
                Some(Found::Module(to)) if import.name.is_none() && !below(to) => arrow(to, "*"),
                _ => {}
            }
        }
        for path in &module.used {
            let found = read.resolve(at, path, false, &mut Vec::new());
            if let Some(Found::Item(to, name)) = found {
                arrow(to, &name);
            }
        }
    }
    arrows
}

impl Crate {
    /// What `path` stands for in the module `at`; `None` if it belongs to another crate. `more`:
    /// whether the path continues after this. `through`: the imports followed so far, so that two that
    /// refer to each other do not loop for ever.
    fn resolve(
        &self,
        mut at: usize,
        path: &[String],
        more: bool,
        through: &mut Vec<(usize, usize)>,
    ) -> Option<Found> {
        for (nth, name) in path.iter().enumerate() {
            let more = more || nth + 1 < path.len();
            let found = match name.as_str() {
                "crate" => Some(Found::Module(0)),
                "self" => Some(Found::Module(at)),
                "super" => Some(Found::Module(self.modules[at].parent)),
                // A name that is not found in one of our modules was made by a macro there, or
                // comes from another crate and is re-exported.
                _ => self
                    .look_up(at, name, more, through)
                    .or((nth > 0).then(|| Found::Item(at, name.clone()))),
            };
            match found? {
                Found::Module(next) => at = next,
                item => return Some(item),
            }
        }
        Some(Found::Module(at))
    }

    /// What `name` stands for in the module `at`.
    fn look_up(
        &self,
        at: usize,
        name: &str,
        more: bool,
        through: &mut Vec<(usize, usize)>,
    ) -> Option<Found> {
        let Module {
            children,
            items,
            imports,
            ..
        } = &self.modules[at];
        let child = children.get(name).copied();
        // A function may have the same name as a module.
        match (items.contains(name), child) {
            (true, None) => return Some(Found::Item(at, name.to_owned())),
            (true, Some(_)) if !more => return Some(Found::Item(at, name.to_owned())),
            (_, Some(child)) => return Some(Found::Module(child)),
            (false, None) => {}
        }
        for (nth, import) in imports.iter().enumerate() {
            if through.contains(&(at, nth)) || import.name.as_ref().is_some_and(|n| n != name) {
                continue;
            }
            through.push((at, nth));
            let found = match import.name {
                Some(_) => self.resolve(at, &import.path, more, through),
                None => match self.resolve(at, &import.path, true, through) {
                    Some(Found::Module(all)) => self.look_up(all, name, more, through),
                    _ => None,
                },
            };
            through.pop();
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The arrows of a crate of these files, as `from -> to: names`.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let read = Crate::read(&dir.path().join("lib.rs")).unwrap();
        let name = |file: &Path| {
            let file = file.strip_prefix(dir.path()).unwrap().with_extension("");
            file.display().to_string()
        };
        let arrows = find(&read);
        let mut lines = Vec::from_iter(arrows.iter().map(|((from, to), names)| {
            let names = Vec::from_iter(names.iter().map(String::as_str)).join(", ");
            format!("{} -> {}: {names}", name(from), name(to))
        }));
        lines.sort();
        lines
    }

    /// The arrows of a crate with the modules `a`, of this text, and `b`.
    fn from_a(a: &str) -> Vec<String> {
        let b = "
            pub struct Item; pub trait Trait {} pub enum Kind { One } pub const ITEM: u8 = 1;
            pub fn item() -> u8 { 1 }
        ";
        found(&[("lib.rs", "mod a; mod b;"), ("a.rs", a), ("b.rs", b)])
    }

    #[test]
    fn what_a_use_names_counts() {
        for (a, name) in [
            ("use crate::b::Item;", "b::Item"),
            ("use super::b::Item;", "b::Item"),
            ("use crate::{b::{Item}};", "b::Item"),
            ("use crate::b::Item as Other;", "b::Item"),
            ("use crate::b::Trait as _;", "b::Trait"),
            ("use crate::b::*;", "b::*"),
            ("use crate::b::Kind::*;", "b::Kind"),
            ("pub use crate::b::Item;", "b::Item"),
            ("fn f() { use crate::b::item; item(); }", "b::item"),
            ("use crate::b; use b::Item;", "b::Item"),
        ] {
            assert_eq!(from_a(a), [format!("a -> b: {name}")], "{a}");
        }
    }

    #[test]
    fn paths_in_code_count() {
        for (a, name) in [
            ("fn f() { crate::b::item(); }", "b::item"),
            ("fn f() { super::b::item(); }", "b::item"),
            ("fn f(_: crate::b::Item) {}", "b::Item"),
            ("fn f(_: Vec<Option<crate::b::Item>>) {}", "b::Item"),
            ("impl crate::b::Trait for u8 {}", "b::Trait"),
            ("const C: u8 = crate::b::ITEM;", "b::ITEM"),
            ("fn f() { let _ = crate::b::Kind::One; }", "b::Kind"),
            ("fn f() { println!(\"{}\", crate::b::item()); }", "b::item"),
            ("use crate::b; fn f() { b::item(); }", "b::item"),
            ("use crate::b as c; fn f() { c::item(); }", "b::item"),
            ("use crate::b; fn f() { vec![[b::ITEM]]; }", "b::ITEM"),
            ("#[error(\"{}\", crate::b::item())] struct E;", "b::item"),
            ("mod c { fn f() { crate::b::item(); } }", "b::item"),
            ("mod c { fn f() { super::super::b::item(); } }", "b::item"),
        ] {
            assert_eq!(from_a(a), [format!("a -> b: {name}")], "{a}");
        }
    }

    #[test]
    fn nothing_else_counts() {
        for a in [
            "/// See [`crate::b::Item`].\nfn f() {}",
            "//! See [`crate::b::item`].\n// crate::b::Item",
            "#[cfg(test)] use crate::b::Item;",
            "#[cfg(test)] mod tests { use crate::b::Item; fn f() { crate::b::item(); } }",
            "#[cfg(test)] mod tests;",
            "#[cfg(all(test, unix))] fn f() { crate::b::item(); }",
            "struct S; impl S { #[cfg(test)] fn f() { crate::b::item(); } }",
            "use crate::b;",
            "fn f() { \"crate::b::Item\"; }",
            "use ::b::Item;",
            "use b::Item;",
            "pub(in crate::b) struct S;",
            "mod c { pub struct Item; } use c::Item; fn f() -> Item { self::c::Item }",
            // Two names that stand for each other lead nowhere.
            "use x::y; use y::x; fn f() { x::z(); }",
        ] {
            assert_eq!(from_a(a), [""; 0], "{a}");
        }
        assert_eq!(
            from_a("#[cfg(not(test))] use crate::b::Item;"),
            ["a -> b: b::Item"]
        );
    }

    #[test]
    fn a_module_does_not_use_what_it_re_exports_from_below() {
        let rest = [
            ("a/b.rs", "pub use super::c::Other; pub struct Item;"),
            ("a/c.rs", "pub struct Other; pub fn list() {}"),
            ("d.rs", "use crate::a::Item; fn f(_: crate::a::Other) {}"),
        ];
        let with =
            |a: &str| found(&[&[("lib.rs", "mod a; mod d;"), ("a/mod.rs", a)], &rest[..]].concat());
        let others = [
            "a/b -> a/c: a::c::Other",
            "d -> a/b: a::b::Item",
            "d -> a/c: a::c::Other",
        ];

        assert_eq!(with("mod b; mod c; pub use b::{Item, Other};"), others);
        assert_eq!(with("mod b; mod c; pub use b::*;"), others);
        assert_eq!(
            with("mod b; mod c; pub use b::*; pub use c::list; fn f() { let list = 1; g(list) }"),
            others
        );
        for used in [
            "fn f(_: Item) {}",
            "fn f() { list() }",
            "fn f() { c::list() }",
        ] {
            let a = format!("mod b; mod c; pub use b::{{Item, Other}}; pub use c::list; {used}");
            let arrows = with(&a);
            assert!(arrows.iter().any(|a| a.starts_with("a/mod -> ")), "{used}");
        }
    }

    #[test]
    fn a_child_uses_what_the_module_above_defines() {
        let child = ("a/b.rs", "use super::Item; fn f() { super::item() }");
        let files = [
            ("lib.rs", "mod a;"),
            ("a.rs", "mod b; struct Item; fn item() { b::f() }"),
            child,
        ];
        assert_eq!(
            found(&files),
            ["a -> a/b: a::b::f", "a/b -> a: a::Item, a::item"]
        );
    }

    #[test]
    fn a_function_may_be_called_like_a_module() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::list; fn f() { list(); list::g(); }"),
            ("b.rs", "pub mod list; pub fn list() {}"),
            ("b/list.rs", "pub fn g() {}"),
        ];
        assert_eq!(
            found(&files),
            ["a -> b/list: b::list::g", "a -> b: b::list"]
        );
    }

    #[test]
    fn what_is_missing_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("lib.rs");
        for (text, says) in [("mod a;", "no file for the module"), ("fn", "cannot parse")] {
            fs::write(&root, text).unwrap();
            let error = Crate::read(&root).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
