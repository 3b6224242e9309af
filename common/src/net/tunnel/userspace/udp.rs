//! The tunnel's UDP socket, with room for bursts.

use std::io;

use gotatun::udp::socket::{UdpSocket, UdpSocketFactory};
use gotatun::udp::{UdpTransportFactory, UdpTransportFactoryParams};
use nix::sys::socket::{setsockopt, sockopt};

/// Bytes of each of the socket's buffers. The default, some 200 KiB, overflows whenever this
/// process must wait for a processor for a few milliseconds.
const BUFFER: usize = 4 << 20;

/// Makes the sockets. The limit for unprivileged programs (`net.core.rmem_max`) does not hold for
/// those with `CAP_NET_ADMIN`, which this one needs anyway (socket(7), `SO_RCVBUFFORCE`).
#[derive(Default)]
pub(super) struct Factory(UdpSocketFactory);

impl UdpTransportFactory for Factory {
    type Send = UdpSocket;
    type Recv = UdpSocket;

    async fn bind(
        &mut self,
        params: &UdpTransportFactoryParams,
    ) -> io::Result<(UdpSocket, UdpSocket)> {
        let (send, receive) = self.0.bind(params).await?;
        setsockopt(&send, sockopt::RcvBufForce, &BUFFER)?;
        setsockopt(&send, sockopt::SndBufForce, &BUFFER)?;
        Ok((send, receive))
    }
}
