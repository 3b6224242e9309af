//! The nftables rules that turn a flow's connmark into a packet's fwmark.
//!
//! ```text
//! table inet live_migration {
//!     chain arriving_1 {
//!         type filter hook prerouting priority -310; policy accept;
//!         iifname lmwg1 ip daddr 127.0.0.0/8 drop
//!         iifname lmwg1 meta mark set meta mark & 0xffc0ffff | 0x00010000
//!         iifname lmwg1 meta nfproto ipv4 fib saddr type local ip saddr set 192.0.0.8
//!         … the same for IPv6 …
//!     }
//!     chain forward_1 {
//!         type nat hook prerouting priority dstnat - 1; policy accept;
//!         meta nfproto ipv4 fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto tcp
//!             th dport 8080 ct mark set ct mark & 0xffc0ffff | 0x00010000
//!             meta mark set meta mark & 0xffc0ffff | 0x00010000 dnat ip to 10.88.0.5:80
//!     }
//!     chain forward_output_1 { type nat hook output priority dstnat - 1; … the same … }
//!     chain prerouting_1 {
//!         type filter hook prerouting priority 200; policy accept;
//!         iifname lmwg1 ct state new fib daddr type != local
//!             ct mark set ct mark & 0xf03fffff | 0x00400000
//!         iifname lmwg1 meta mark & 0x003f0000 == 0x00010000 meta mark set meta mark & 0xffc0ffff
//!         ct direction original ct mark & 0x003f0000 == 0x00010000
//!             meta mark set meta mark & 0xffc0ffff | 0x00010000
//!         ct direction reply ct mark & 0x0fc00000 == 0x00400000
//!             meta mark set meta mark & 0xffc0ffff | 0x00010000
//!         meta mark & 0x003f0000 == 0x00010000 meta l4proto tcp ip frag-off 0x4000
//!             meta length >= 1421 limit rate over 4/minute burst 2 packets ip frag-off set 0
//!     }
//!     chain leaving_1 {
//!         type filter hook postrouting priority 300; policy accept;
//!         oifname lmwg1 ip daddr 192.0.0.8 ct direction original
//!             ip daddr set ct original ip daddr
//!         oifname lmwg1 ip daddr 192.0.0.8 ct direction reply ip daddr set ct reply ip daddr
//!         … the same for IPv6 …
//!     }
//!     chain output_1 { type route hook output priority mangle; … the two rules of directions … }
//!     chain nat_prerouting { type nat hook prerouting priority dstnat; }
//!     chain nat_postrouting { type nat hook postrouting priority srcnat; }
//! }
//! ```
//!
//! A peer whose address is this host's own is another between the two ends of the tunnel
//! ([`crate::net::flows::placeholder`]): it gets it when conntrack has not seen the packet yet, and has its own again
//! in packets that leave, when their way is decided on. Their flow's entry knows what that is.
//!
//! The rule about fragments is for connections that are older than the tunnel and have agreed on segments
//! that it has no room for. A sender whose packets may not be fragmented is told so by ICMP, and sends
//! smaller ones. Behind a filter that drops ICMP it would send the same segment for ever (RFC 2923,
//! section 2.1): so only a few packets get that answer, and the rest is fragmented (IPv4 only: no router
//! fragments IPv6). TCP only, because what else may not be fragmented need not have an identification of
//! its own (RFC 6864), and fragments of two such packets cannot be told apart.
//!
//! `prerouting` comes after conntrack has found the flow, last before the routing decision. A packet
//! that came through a tunnel needs no exception: in its direction the mark says "ordinary".
//!
//! Until then such a packet has the mark of its tunnel. Firewalls that check where packets come from
//! (firewalld does for IPv6: `fib saddr . mark . iif`) find the way back through that tunnel.
//!
//! A chain `guard_1` of the hook input has rules only while entries are made anew that the kernel would not
//! have turned ([`crate::net::flows::decide::is_masqueraded_inbound`]): it drops what the container sends of those flows
//! in between, which this host would answer with a reset.
//!
//! Two chains `waiting_1` and `queued_1` have rules only while flows are led past a host: what leaves through
//! the tunnel waits for what is under way ([`crate::net::packets::keep_order`]).
//!
//! The chains `forward_1` are empty unless new connections are sent after a container
//! ([`crate::net::flows::port_forwards`]). At the other end those are new as well, and are answered through the tunnel:
//! the first rule of `prerouting_1`. What this host sends to itself keeps its address, which the other
//! end cannot answer if it is a loopback address.
//!
//! Each tunnel has base chains of its own because chains, unlike rules, are removed by name: there
//! are no rule handles to remember, and tunnels do not touch each other's.
//!
//! The two chains of type `nat` stay empty: while one exists the kernel goes on translating the
//! flows that have a translation already, even if whoever set it up removes the last chain of its
//! own (nf_nat_register_fn in the kernel's net/netfilter/nf_nat_core.c).
//!
//! Every change is one transaction of `nft`. Concurrent callers must hold the tunnels' lock.

mod chains;
mod expressions;
pub mod guard;
pub mod nft;
pub mod port_forward;
pub(crate) mod queue;
pub mod tunnel;
