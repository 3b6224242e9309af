//! What all plots are drawn with.

use std::fmt::{Arguments, Write};

/// The width of a character in a label.
pub const LETTER: f64 = 6.2;

/// A whole file around its parts.
pub fn document(width: f64, height: f64, parts: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         {parts}</svg>\n"
    )
}

/// Adds a line to a part.
pub fn add(out: &mut String, line: Arguments<'_>) {
    writeln!(out, "{line}").expect("a string takes everything");
}

/// A text as it can stand between tags.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// A round step that divides `whole` into four to ten parts.
pub fn step(whole: f64) -> f64 {
    let power = 10_f64.powf((whole / 4.0).log10().floor());
    let steps = [5.0, 2.0, 1.0].map(|part| part * power);
    steps
        .into_iter()
        .find(|step| whole / step >= 4.0)
        .unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_a_few_round_steps() {
        for (whole, expected) in [
            (100.0, 20.0),
            (399.0, 50.0),
            (1500.0, 200.0),
            (41_000.0, 10_000.0),
        ] {
            assert_eq!(step(whole), expected, "{whole}");
        }
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("a < b & c"), "a &lt; b &amp; c");
    }
}
