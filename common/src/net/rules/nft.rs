//! Running `nft`: reading the ruleset, and changing it in transactions.

use nftables::batch::Batch;
use nftables::helper::{self, NftablesError};
use nftables::schema::{Chain, FlushObject, NfCmd, NfListObject, Rule};
use nftables::stmt::Statement;

use crate::net::mark::Index;

/// Our table, in the family `inet`.
pub const TABLE: &str = "live_migration";

/// The table that the keeper of a tunnel has besides, likewise ([`super::owned`]).
pub(super) fn own_table(index: Index) -> String {
    format!("{TABLE}_{index}")
}

/// Whether a table, by name, is one of ours.
pub(crate) fn is_ours(table: &str) -> bool {
    let Some(rest) = table.strip_prefix(TABLE) else {
        return false;
    };
    let number = rest
        .strip_prefix('_')
        .and_then(|number| number.parse::<u8>().ok());
    rest.is_empty() || number.is_some_and(|number| Index::try_from(number).is_ok())
}

/// `nft` failed.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// `nft` ran and refused.
    #[error("cannot {what}: nft says: {stderr}")]
    Refused {
        /// The change in words.
        what: &'static str,
        /// What it printed.
        stderr: String,
    },
    /// `nft` did not run, or printed what cannot be understood.
    #[error("cannot {what}: {source}")]
    Nft {
        /// The change in words.
        what: &'static str,
        /// Why.
        source: NftablesError,
    },
}

impl FirewallError {
    pub(super) fn new(what: &'static str, source: NftablesError) -> Self {
        match source {
            NftablesError::NftFailed { stderr, .. } => FirewallError::Refused {
                what,
                stderr: stderr.trim().into(),
            },
            source => FirewallError::Nft { what, source },
        }
    }
}

/// The whole ruleset in nft's JSON, whatever is in it.
pub fn ruleset() -> Result<String, FirewallError> {
    helper::get_current_ruleset_raw(helper::DEFAULT_NFT, helper::DEFAULT_ARGS)
        .map_err(|source| FirewallError::new("read the firewall's rules", source))
}

/// Hands one transaction to `nft`, in the namespace of the calling thread.
pub(crate) fn apply(what: &'static str, batch: Batch) -> Result<(), FirewallError> {
    helper::apply_ruleset(&batch.to_nftables()).map_err(|source| FirewallError::new(what, source))
}

pub(super) fn fill(
    batch: &mut Batch<'static>,
    chain: &Chain<'static>,
    rules: Vec<Vec<Statement<'static>>>,
) {
    for rule in rules {
        batch.add(NfListObject::Rule(Rule {
            family: chain.family,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            expr: rule.into(),
            ..Rule::default()
        }));
    }
}

/// Makes the chain if it is missing, and empties it if not.
pub(super) fn empty(batch: &mut Batch<'static>, chain: &Chain<'static>) {
    batch.add(NfListObject::Chain(chain.clone()));
    batch.add_cmd(NfCmd::Flush(FlushObject::Chain(chain.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_tunnels_are_ours_and_no_others() {
        for ours in ["live_migration", "live_migration_1", "live_migration_63"] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in [
            "live_migration_0",
            "live_migration_64",
            "live_migration_quarantine",
            "filter",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
