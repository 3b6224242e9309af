//! Pictures of migrations, as SVG: for one that is past, and for what the benchmarks have measured.

pub mod svg;
pub mod timeline;
