//! A small list kept as JSON, safe for concurrent readers and writers.

use std::{
    fs::File,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::Error,
    private::{self, failed},
};

/// A list of `T` in one private file.
///
/// The file is only ever replaced as a whole, so readers need no lock. Writers hold a lock on the
/// directory, because the rename would leave a lock on the file behind.
#[derive(Debug)]
pub(crate) struct Store<T> {
    dir: PathBuf,
    path: PathBuf,
    items: PhantomData<fn() -> T>,
}

impl<T> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self {
            dir: self.dir.clone(),
            path: self.path.clone(),
            items: PhantomData,
        }
    }
}

impl<T: Serialize + DeserializeOwned> Store<T> {
    pub(crate) fn open(dir: &Path, file: &str) -> Result<Self, Error> {
        private::prepare_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            path: dir.join(file),
            items: PhantomData,
        })
    }

    /// What the file holds now; empty if there is no file.
    pub(crate) fn read(&self) -> Result<Vec<T>, Error> {
        let Some(text) = private::read(&self.path)? else {
            return Ok(Vec::new());
        };
        serde_json::from_str(&text).map_err(|source| Error::Damaged {
            path: self.path.clone(),
            source,
        })
    }

    /// Lets `change` alter the list while no other writer can, and writes it if that succeeds.
    ///
    /// When this returns `Ok`, the change is on disk. `change` must not update a store in the same
    /// directory: that would deadlock.
    pub(crate) fn update<R>(
        &self,
        change: impl FnOnce(&mut Vec<T>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let lock = File::open(&self.dir).map_err(failed("open", &self.dir))?;
        lock.lock().map_err(failed("lock", &self.dir))?;

        let mut items = self.read()?;
        let outcome = change(&mut items)?;
        let text = serde_json::to_string_pretty(&items).map_err(|source| Error::Io {
            action: "encode",
            path: self.path.clone(),
            source: source.into(),
        })?;
        private::replace(&self.dir, &self.path, &(text + "\n"))?;
        Ok(outcome)
    }
}
