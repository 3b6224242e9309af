//! Undo, registered before the act.

use std::future::Future;
use std::pin::Pin;

type Action = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>> + Send>;

/// What must be done to restore the host to what it was, newest first.
///
/// Register *before* acting: a step that fails half-way, or is dropped at an await, is undone like
/// one that succeeded. So every action must be idempotent and accept that there is nothing to undo.
#[derive(Default)]
pub struct Undo {
    actions: Vec<(&'static str, Action)>,
}

impl Undo {
    /// Registers how the next step is undone.
    pub fn register<F, Fut>(&mut self, what: &'static str, action: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.actions
            .push((what, Box::new(move || Box::pin(action()))));
    }

    /// Undoes everything, newest first, and goes on after failures. Returns what could not be
    /// undone.
    pub async fn unwind(&mut self) -> Vec<String> {
        let mut failures = Vec::new();
        while let Some((what, action)) = self.actions.pop() {
            tracing::debug!(what, "undo");
            if let Err(error) = action().await {
                tracing::error!(what, "undo failed: {error:#}");
                failures.push(format!("{what}: {error:#}"));
            }
        }
        failures
    }

    /// Forgets everything: what was done is now permanent.
    pub fn disarm(&mut self) {
        self.actions.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn newest_first_and_past_failures() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for (name, fails) in [("a", false), ("b", true), ("c", false)] {
            let order = order.clone();
            undo.register(name, move || async move {
                order.lock().unwrap().push(name);
                anyhow::ensure!(!fails, "stuck");
                Ok(())
            });
        }
        assert_eq!(undo.unwind().await, ["b: stuck"]);
        assert_eq!(*order.lock().unwrap(), ["c", "b", "a"]);
        assert!(undo.unwind().await.is_empty());
    }

    #[tokio::test]
    async fn disarmed_does_nothing() {
        let mut undo = Undo::default();
        undo.register("a", || async { panic!("must not run") });
        undo.disarm();
        assert!(undo.unwind().await.is_empty());
    }
}
