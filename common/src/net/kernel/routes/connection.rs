//! The connection to rtnetlink, and its errors.

use std::future::Future;
use std::io;

use futures::TryStreamExt;
use rtnetlink::packet_core::ErrorMessage;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteFlags, RouteMessage};
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::{Handle, IpVersion};
use tokio::runtime::Runtime;

/// The kernel refused a change of links, addresses, routes or rules.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// No socket, or it broke.
    #[error("no rtnetlink socket: {0}")]
    Socket(#[from] io::Error),
    /// A request was refused.
    #[error("cannot {what}: {source}")]
    Request {
        /// The request in words.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// The interface is not there.
    #[error("there is no interface {0}")]
    NoInterface(String),
}

impl RouteError {
    pub(super) fn errno(&self) -> i32 {
        match self {
            RouteError::Request {
                source: rtnetlink::Error::NetlinkError(ErrorMessage { code, .. }),
                ..
            } => code.map_or(0, |code| -code.get()),
            _ => 0,
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, RouteError>;

/// A connection to the rtnetlink of the network namespace of the thread that opened it.
pub struct Routes {
    runtime: Runtime,
    pub(super) handle: Handle,
}

impl Routes {
    /// Opens the connection.
    pub fn open() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let _context = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection()?;
        runtime.spawn(connection);
        drop(_context);
        Ok(Self { runtime, handle })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(crate) fn request<T>(
        &self,
        what: impl Into<String>,
        request: impl Future<Output = std::result::Result<T, rtnetlink::Error>>,
    ) -> Result<T> {
        self.runtime
            .block_on(request)
            .map_err(|source| RouteError::Request {
                what: what.into(),
                source,
            })
    }

    pub(super) fn rules(&self, family: AddressFamily) -> Result<Vec<RuleMessage>> {
        let version = match family {
            AddressFamily::Inet => IpVersion::V4,
            _ => IpVersion::V6,
        };
        let rules = self.handle.rule().get(version).execute();
        unsupported(self.request("list rules", rules.try_collect::<Vec<_>>()))
    }

    pub(super) fn routes(&self, family: AddressFamily) -> Result<Vec<RouteMessage>> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        let routes = self.handle.route().get(filter).execute();
        let mut routes = unsupported(self.request("list routes", routes.try_collect::<Vec<_>>()))?;
        // What the kernel has learned about a route (a path's MTU, a redirect) is listed with the routes
        // (fib_dump_info_fnhe in its fib_semantics.c), but nobody has set it up.
        routes.retain(|route| !route.header.flags.contains(RouteFlags::Cloned));
        Ok(routes)
    }
}

pub(super) fn families(ipv6: bool) -> impl Iterator<Item = AddressFamily> {
    [AddressFamily::Inet]
        .into_iter()
        .chain(ipv6.then_some(AddressFamily::Inet6))
}

/// What exists already need not be made.
pub(super) fn there_already(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.errno() == libc::EEXIST => Ok(()),
        other => other,
    }
}

/// What does not exist need not be removed. The kernel's error number for that depends on the kind of
/// object, and the kernel may lack a family.
pub(super) fn gone(result: Result<()>) -> Result<()> {
    match result {
        Err(error)
            if matches!(
                error.errno(),
                libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EAFNOSUPPORT | libc::EOPNOTSUPP
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// A kernel without IPv6 has no IPv6 routes.
fn unsupported<T>(result: Result<Vec<T>>) -> Result<Vec<T>> {
    match result {
        Err(error) if matches!(error.errno(), libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => {
            Ok(Vec::new())
        }
        other => other,
    }
}
