//! Running `nft`: reading the ruleset, and changing it in transactions.

use nftables::batch::Batch;
use nftables::helper::{self, NftablesError};
use nftables::schema::{Chain, FlushObject, NfCmd, NfListObject, Rule};
use nftables::stmt::Statement;

/// Our table, in the family `inet`.
pub const TABLE: &str = "live_migration";

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
