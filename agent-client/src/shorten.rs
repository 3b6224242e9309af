//! After a migration: leads flows that entered elsewhere past this host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::net::flows::MovedFlow;
use common::net::introduction::{Introduction, IntroductionError};
use common::net::mark::Index;
use common::net::tunnel::{Dirs, MOST_TRIES};
use common::protocol::message::FLOWS_PER_BATCH;
use common::protocol::{Reply, Request};
use tokio_util::sync::CancellationToken;

use crate::control::{Control, RequestError, unexpected};
use crate::source::Flows;

/// Why flows go on through this host.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    /// At the host where they enter, or on the way there.
    #[error(transparent)]
    Entry(#[from] IntroductionError),
    /// At the container's new host, or on the way there.
    #[error(transparent)]
    Destination(#[from] RequestError),
    /// On this host.
    #[error("{0:#}")]
    Here(anyhow::Error),
}

/// What became of the flows that moved and had come through other tunnels.
#[derive(Debug, Default)]
pub(crate) struct Shortened {
    /// How many do not pass this host any more.
    pub(crate) flows: usize,
    /// Why others still do.
    pub(crate) warnings: Vec<String>,
}

/// Introduces the hosts where `flows` enter to the one that they have moved to, through `tunnel`.
pub(crate) async fn shorten(control: &mut Control, flows: &[Flows], tunnel: Index) -> Shortened {
    let mut passing: BTreeMap<Index, Vec<MovedFlow>> = BTreeMap::new();
    for (through, moved) in flows.iter().flat_map(|flows| flows.passing(tunnel)) {
        passing.entry(through).or_default().extend(moved);
    }
    let mut shortened = Shortened::default();
    for (through, moved) in passing {
        let (entry, done) = past(control, through, &moved, flows).await;
        match done {
            Ok(count) => shortened.flows += count,
            Err(obstacle) => {
                let entry = entry.map_or(through.interface(), |address| address.to_string());
                shortened.warnings.push(format!(
                    "{} connections that enter at {entry} go on through this host, which must stay \
                     up for them: {obstacle}",
                    moved.len()
                ));
            }
        }
    }
    shortened
}

/// Does it for the flows that come through one tunnel. Also says where they enter, if it got so far.
async fn past(
    control: &mut Control,
    through: Index,
    moved: &[MovedFlow],
    flows: &[Flows],
) -> (Option<IpAddr>, Result<usize, Obstacle>) {
    match Introduction::open(&Dirs::default(), through).await {
        Ok((entry, address)) => {
            let done = introduce(control, entry, address, through, moved, flows).await;
            (Some(address), done)
        }
        Err(error) => (None, Err(error.into())),
    }
}

async fn introduce(
    control: &mut Control,
    mut entry: Introduction,
    address: IpAddr,
    through: Index,
    moved: &[MovedFlow],
    flows: &[Flows],
) -> Result<usize, Obstacle> {
    let mut tries = 1..=MOST_TRIES;
    loop {
        let offer = entry.offer().await?;
        let request = Request::Introduce { offer, address };
        let terms = match control.request(request, &CancellationToken::new()).await? {
            Reply::Introduced { terms } => terms,
            other => return Err(unexpected(&other).into()),
        };
        match entry.meet(terms, control.peer).await {
            Err(IntroductionError::Taken) if tries.next().is_some() => {}
            met => break met?,
        }
    }
    let mut count = 0;
    for batch in moved.chunks(FLOWS_PER_BATCH) {
        count += entry.turn(batch.to_vec()).await?;
    }
    for flows in flows {
        flows.fade(through).await.map_err(Obstacle::Here)?;
    }
    Ok(count)
}
