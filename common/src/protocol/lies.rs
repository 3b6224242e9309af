//! Agents that say what is not true, for tests: [`crate::faults`].
//!
//! Without the feature `failpoints` everything is said as it is. With it, at the places `client.REQUEST.says`
//! and `server.REQUEST.says`:
//!
//! | action | what is said |
//! |---|---|
//! | `return(other)` | something that does not belong here: in place of a request `Commit`, in place of an answer one to something else |
//! | `return(twice)` | the truth, and once more the same |
//! | `return(refused)` | that what was done has failed |
//! | `return(committed)` and so on, from a server that is asked for a migration's fate | that fate |

#[cfg(not(feature = "failpoints"))]
use super::message::{Reply, Request};

/// What a source sends in place of `request`, in order.
#[cfg(not(feature = "failpoints"))]
pub fn requests(request: Request) -> [Request; 1] {
    [request]
}

/// What a destination sends in place of `reply`, which answers the request of this name, in order.
#[cfg(not(feature = "failpoints"))]
pub fn replies(_request: &str, reply: Reply) -> [Reply; 1] {
    [reply]
}

#[cfg(feature = "failpoints")]
pub use on::{replies, requests};

#[cfg(feature = "failpoints")]
mod on {
    use serde::{Serialize, de::DeserializeOwned};

    use crate::faults;
    use crate::protocol::{Fate, RefusalCode, Refused, Reply, Request};

    /// What a source sends in place of `request`, in order.
    pub fn requests(request: Request) -> Vec<Request> {
        let lie = lie(format!("client.{}.says", request.name()));
        match lie.as_deref() {
            Some("other") => vec![match request {
                Request::Commit => Request::Restore,
                _ => Request::Commit,
            }],
            Some("twice") => vec![again(&request), request],
            _ => vec![request],
        }
    }

    /// What a destination sends in place of `reply`, which answers the request of this name, in order.
    pub fn replies(request: &str, reply: Reply) -> Vec<Reply> {
        let lie = lie(format!("server.{request}.says"));
        let fate = |fate| vec![Reply::Fate { fate }];
        match lie.as_deref() {
            Some("other") => vec![match reply {
                Reply::Redirected => Reply::Receiving,
                _ => Reply::Redirected,
            }],
            Some("twice") => vec![again(&reply), reply],
            Some("refused") => vec![Reply::Refused(Refused::new(RefusalCode::Failed, "a lie"))],
            Some("committed") => fate(Fate::Committed),
            Some("rolled_back") => fate(Fate::RolledBack),
            Some("under_way") => fate(Fate::UnderWay),
            Some("unknown") => fate(Fate::Unknown),
            _ => vec![reply],
        }
    }

    fn lie(place: String) -> Option<String> {
        faults::lie(&place).inspect(|lie| tracing::warn!("a lie at {place}: {lie}"))
    }

    fn again<M: Serialize + DeserializeOwned>(message: &M) -> M {
        let text = serde_json::to_string(message).expect("it can be sent");
        serde_json::from_str(&text).expect("it can be received")
    }
}
