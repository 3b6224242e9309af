//! Whom a server lets in.

use crate::{
    error::Error,
    fingerprint::Fingerprint,
    invites::Invites,
    peers::{Peer, Peers},
    token::Secret,
};

/// Who is at the other end of a connection that a server has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerIdentity {
    /// A host that has been paired.
    Paired(Peer),
    /// A host that holds this key and was let in because an invitation is open. All it may do is
    /// redeem one with [`Admission::pair`].
    Unpaired(Fingerprint),
}

/// A server's policy: paired hosts come in, and strangers only while they can pair.
///
/// The files are read for every connection, so that removing a peer, and using up or expiry of an
/// invitation, take effect at once.
#[derive(Debug, Clone)]
pub struct Admission {
    peers: Peers,
    invites: Invites,
}

impl Admission {
    /// An admission that knows these hosts and these invitations.
    #[must_use]
    pub fn new(peers: Peers, invites: Invites) -> Self {
        Self { peers, invites }
    }

    /// Who the holder of a key is, if it is let in.
    pub(crate) fn admit(&self, client: Fingerprint) -> Result<Option<PeerIdentity>, Error> {
        if let Some(peer) = self.peers.find(client)? {
            return Ok(Some(PeerIdentity::Paired(peer)));
        }
        let invited = self.invites.any_open()?;
        Ok(invited.then_some(PeerIdentity::Unpaired(client)))
    }

    /// Pairs the client that holds the key of the connection, if `secret` is that of an open
    /// invitation, and returns its entry in the list of peers.
    ///
    /// The invitation is used up before the key is pinned. Undone by [`Peers::remove`].
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the invitation is wrong, used or expired; [`Error::Name`] for an
    /// invalid name, which does not use up the invitation; and those of the files.
    pub fn pair(&self, client: Fingerprint, name: &str, secret: &Secret) -> Result<Peer, Error> {
        let peer = Peer::new(name, client, None)?;
        self.invites.redeem(secret)?;
        self.peers.add(peer.clone())?;
        Ok(peer)
    }
}
