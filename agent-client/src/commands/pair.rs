//! Pairing with a destination.

use std::path::Path;

use anyhow::Context;
use common::paths;
use common::protocol::{Reply, Request};
use trust::{Peer, Peers, Standing, Token};

use crate::address::Address;
use crate::control::{Control, identity, unexpected};

/// Reads a token from a file that only its owner should be able to read.
pub(super) fn read_token(path: &Path) -> anyhow::Result<Token> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.trim().parse()?)
}

/// Uses `token` at `address` and pins the server's key.
pub(super) async fn pair(address: &Address, token: Token) -> anyhow::Result<()> {
    let host = address.to_string();
    if token.seems_expired() {
        tracing::warn!("according to this host's clock, the token has expired");
    }
    let identity = identity()?;
    let mut control = Control::open(&host, token.server, Standing::Unpaired).await?;
    let request = Request::Pair {
        secret: token.secret,
        name: identity.name().to_owned(),
    };
    match control.ask(request).await? {
        Reply::Paired => {}
        other => return Err(unexpected(&other).into()),
    }
    let name = host
        .rsplit_once(':')
        .map_or(host.as_str(), |(name, _)| name);
    Peers::open(&paths::client_dir())?.add(Peer::new(
        name.trim_matches(['[', ']']),
        token.server,
        Some(host.clone()),
    )?)?;
    eprintln!("paired with {host} ({})", token.server);
    Ok(())
}
