//! A container of one kind.

/// What `check` says, and so what becomes of the container.
#[derive(Clone, Copy)]
pub(super) enum Said {
    /// Nothing: it moves whole.
    Nothing,
    /// A warning with these words, which the report has too: it moves.
    Warned(&'static [&'static str]),
    /// A reason with these words: nothing is touched.
    Refused(&'static [&'static str]),
}
/// A container of one kind.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Options for `podman run`.
    pub(super) options: &'static str,
    /// Its program, for a shell.
    pub(super) program: &'static str,
    pub(super) said: Said,
    /// What it prints in the container before and after the move, the same both times; empty: nothing.
    pub(super) kept: &'static str,
    /// What is done on its host before it starts.
    pub(super) here: &'static str,
    /// What is done on its host once it runs.
    pub(super) meanwhile: &'static str,
    /// What is done at the destination before it comes.
    pub(super) there: &'static str,
    /// What the user decides: more options for `check` and `migrate`.
    pub(super) choices: &'static [&'static str],
    /// What must hold at the destination afterwards, whatever became of it.
    pub(super) afterwards: &'static str,
}

pub(super) const fn case(
    name: &'static str,
    options: &'static str,
    program: &'static str,
    said: Said,
    kept: &'static str,
) -> Case {
    Case {
        name,
        options,
        program,
        said,
        kept,
        here: "",
        meanwhile: "",
        there: "",
        choices: &[],
        afterwards: "",
    }
}
