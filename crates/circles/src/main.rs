//! Finds source files of a package that depend on each other in a circle.
//!
//! ```text
//! cargo run -q -p circles -- PACKAGE_DIRECTORY…
//! ```
//!
//! To understand one file of a circle, you have to read them all. The compiler does not mind, and
//! clippy does not look.
//!
//! An *arrow* leads from a file to another one that defines a name it uses ([`arrows`]), either by
//! `use` or by a path in the code. Re-exports are followed to the definition, and a module does not
//! count as using what it re-exports from below. Tests and comments do not count, nor do method calls:
//! they name no file.
//!
//! Why not `cargo modules dependencies --acyclic`? It looks at items, whatever it is told to filter. So
//! every type with a constructor is a circle (`A` has `A::new`, which names `A`), while two files that
//! import an item from each other are not. And it takes minutes to build (cargo-modules 0.27).

mod arrows;
mod modules;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use petgraph::{algo::tarjan_scc, graphmap::DiGraphMap};

use arrows::Arrows;
use modules::Crate;

fn main() -> anyhow::Result<ExitCode> {
    let mut found = false;
    for package in std::env::args().skip(1) {
        let roots = ["src/lib.rs", "src/main.rs"].map(|root| Path::new(&package).join(root));
        ensure!(roots.iter().any(|r| r.exists()), "no crate in {package}");
        for root in roots.iter().filter(|root| root.exists()) {
            let read = Crate::read(root).with_context(|| format!("cannot read {root:?}"))?;
            let arrows = arrows::find(&read);
            for circle in circles(&arrows) {
                found = true;
                print(&circle, &arrows);
            }
        }
    }
    Ok(ExitCode::from(u8::from(found)))
}

/// Sets of files in which each file leads to all the others.
fn circles<'a>(arrows: &Arrows<'a>) -> Vec<BTreeSet<&'a Path>> {
    let graph: DiGraphMap<&Path, ()> = arrows.keys().copied().collect();
    let sets = tarjan_scc(&graph).into_iter();
    sets.filter(|set| set.len() > 1)
        .map(BTreeSet::from_iter)
        .collect()
}

fn print(circle: &BTreeSet<&Path>, arrows: &Arrows) {
    println!("a circle of {} files:", circle.len());
    for ((from, to), names) in arrows {
        if circle.contains(from) && circle.contains(to) {
            let names = Vec::from_iter(names.iter().map(String::as_str)).join(", ");
            println!("  {} -> {} ({names})", from.display(), to.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_circle_is_found_once() {
        let arrows = |ends: &[(&'static str, &'static str)]| -> Arrows<'static> {
            let ends = ends
                .iter()
                .map(|(from, to)| (Path::new(*from), Path::new(*to)));
            ends.map(|ends| (ends, BTreeSet::new())).collect()
        };
        let none = arrows(&[("a", "b"), ("b", "c"), ("a", "c")]);
        assert!(circles(&none).is_empty());

        let two = arrows(&[
            ("a", "b"),
            ("b", "c"),
            ("c", "a"),
            ("c", "d"),
            ("d", "e"),
            ("e", "d"),
        ]);
        let mut found = circles(&two);
        found.sort();
        let set = |names: &[&'static str]| names.iter().map(|name| Path::new(*name)).collect();
        assert_eq!(found, [set(&["a", "b", "c"]), set(&["d", "e"])]);
    }
}
