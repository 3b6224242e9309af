//! The tunnel's packets as the kernel hands them over: many at a time.
//!
//! A TUN device with offloads (`IFF_VNET_HDR`) gives whole TCP segments of up to 64 KiB, which are
//! cut into packets here, and takes packets back joined likewise. That costs a quarter less processor
//! time per bit, and bursts no longer overflow the device's queue (docs/userspace-wireguard.md).

use std::io;
use std::sync::Arc;

use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use tokio::sync::mpsc;
use tun_rs::{AsyncDevice, DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, VIRTIO_NET_HDR_LEN};

use crate::net::tunnel::wireguard::MTU;

/// The largest IP packet, hence the largest joined one.
const JOINED: usize = u16::MAX as usize;

/// How many packets, joined ones counting once, wait for this process. A container that has just
/// been released answers at once what it was asked during the outage, while this process may have
/// to wait for the processor: with the kernel's usual 500 some of the answers are lost.
const QUEUE_PACKETS: u32 = 16_384;

/// Creates the device. It goes when both halves do, or when somebody deletes it.
pub(crate) fn create(interface: &str) -> io::Result<(ToKernel, FromKernel)> {
    let device = DeviceBuilder::new()
        .name(interface)
        .mtu(MTU as u16)
        .tx_queue_len(QUEUE_PACKETS)
        .offload(true)
        .build_async()?;
    let device = Arc::new(device);
    let (sender, receiver) = mpsc::channel(8 * IDEAL_BATCH_SIZE);
    tokio::spawn(write(device.clone(), receiver));
    let from_kernel = FromKernel {
        device,
        joined: vec![0; VIRTIO_NET_HDR_LEN + JOINED],
        packets: Vec::new(),
        lengths: vec![0; IDEAL_BATCH_SIZE],
    };
    Ok((ToKernel(sender), from_kernel))
}

/// Packets out of the tunnel. They queue while a batch is being written, and make the next one.
pub(crate) struct ToKernel(mpsc::Sender<Packet<Ip>>);

impl IpSend for ToKernel {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let sent = self.0.send(packet).await;
        sent.map_err(|_| io::Error::from_raw_os_error(libc::EBADFD))
    }
}

async fn write(device: Arc<AsyncDevice>, mut packets: mpsc::Receiver<Packet<Ip>>) {
    let mut table = GROTable::default();
    let mut batch = Vec::with_capacity(IDEAL_BATCH_SIZE);
    let mut buffers = vec![Vec::new(); IDEAL_BATCH_SIZE];
    loop {
        let count = packets.recv_many(&mut batch, IDEAL_BATCH_SIZE).await;
        if count == 0 {
            return;
        }
        for (buffer, packet) in buffers.iter_mut().zip(batch.drain(..)) {
            buffer.clear();
            buffer.resize(VIRTIO_NET_HDR_LEN, 0);
            buffer.extend_from_slice(&packet.into_bytes());
        }
        let buffers = &mut buffers[..count];
        match device
            .send_multiple(&mut table, buffers, VIRTIO_NET_HDR_LEN)
            .await
        {
            Ok(_) => {}
            // Deleted: the receiving half reports it.
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return,
            Err(error) => tracing::debug!("packets lost on the way to the kernel: {error}"),
        }
    }
}

/// Packets into the tunnel.
pub(crate) struct FromKernel {
    device: Arc<AsyncDevice>,
    joined: Vec<u8>,
    packets: Vec<Slot>,
    lengths: Vec<usize>,
}

/// A packet to be filled.
struct Slot(Packet);

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Slot {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl IpRecv for FromKernel {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        let missing = IDEAL_BATCH_SIZE - self.packets.len();
        self.packets.extend((0..missing).map(|_| Slot(pool.get())));
        let count = self
            .device
            .recv_multiple(&mut self.joined, &mut self.packets, &mut self.lengths, 0)
            .await?;
        let filled = self.packets.drain(..count).zip(&self.lengths);
        Ok(filled.filter_map(|(Slot(mut packet), length)| {
            packet.truncate(*length);
            packet.try_into_ip().ok()
        }))
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(MTU as u16)
    }
}
