//! The nftables rules that copy the tunnel in a flow's connmark to the packet's fwmark.
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
//!     chain guests_1 {
//!         ip daddr 10.88.0.5 accept
//!         ip saddr 10.88.0.5 ct state established,related accept
//!     }
//!     chain from_tunnel_1 {
//!         type filter hook prerouting priority 199; policy accept;
//!         iifname != lmwg1 accept
//!         ct direction original ct mark & 0x0fc00000 == 0x00400000 accept
//!         ct direction reply ct mark & 0x003f0000 == 0x00010000 accept
//!         ct state established,related ct mark & 0x0fff0000 != 0 accept
//!         jump guests_1
//!         ip saddr 10.1.2.2 ip daddr 10.1.2.1 ct direction reply accept
//!         ip saddr 10.1.2.2 ip daddr 10.1.2.1 ct state related accept
//!         ip saddr 10.1.2.2 ip daddr 10.1.2.1 icmp type echo-request accept
//!         ip saddr 10.1.2.2 ip daddr 10.1.2.1 tcp dport 50052 accept
//!         ip saddr 10.1.2.2 ip daddr 10.1.2.1 tcp dport 52000-52099 accept
//!         … the same for IPv6 …
//!         drop
//!     }
//!     chain to_tunnel_1 {
//!         type filter hook postrouting priority 299; policy accept;
//!         oifname != lmwg1 accept
//!         meta mark & 0x003f0000 == 0x00010000 accept
//!         … the ends' own traffic, as above, the other way round …
//!         drop
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
//! The chains `from_tunnel_1` and `to_tunnel_1` drop what does not belong into the tunnel, whichever end it
//! comes from: the other end need not be paired. A packet of a moved flow comes by the tunnel that the other
//! direction takes. Right after a change of the mark packets are still on their way through the former tunnel,
//! so established flows that name any tunnel pass. What goes in needs no such exception: it has been marked on
//! this host, just before. For the rule of guests see [`crate::net::flows::guests`].
//!
//! A peer whose address is also this host's own has a placeholder within this host
//! ([`crate::net::flows::placeholder`]). A packet that arrives gets it before conntrack sees the packet. A
//! packet that leaves gets the peer's own address back, from its flow's entry, once it has been routed.
//!
//! The rule about fragments is for connections that are older than the tunnel and agreed on segments too
//! large for it. A sender whose packets must not be fragmented is told so by ICMP, and sends smaller ones.
//! Behind a filter that drops ICMP it would send the same segment for ever (RFC 2923, section 2.1). So only a
//! few packets get that answer, and the others are fragmented (IPv4 only: routers do not fragment IPv6). TCP
//! only: other packets that must not be fragmented need not have an identification of their own (RFC 6864),
//! and then fragments of two of them cannot be told apart.
//!
//! `prerouting` comes after conntrack has found the flow, as the last thing before the routing decision. A
//! packet that came through a tunnel needs no exception: in its direction the mark says "ordinary".
//!
//! Until then such a packet has the mark of its tunnel. Firewalls that check where packets come from
//! (firewalld does for IPv6: `fib saddr . mark . iif`) find the way back through that tunnel.
//!
//! The chain `guard_1` of the hook input has rules only while entries are recreated that the kernel would not
//! have redirected ([`crate::net::flows::decide::is_masqueraded_inbound`]). It drops what the container sends
//! on those flows in between, which this host would answer with a reset.
//!
//! The chains `waiting_1` and `queued_1` have rules only while flows begin to bypass a host: what leaves
//! through the tunnel waits for what is still on the long path ([`crate::net::packets::keep_order`]).
//!
//! The chains `forward_1` are empty unless new connections are sent after a container
//! ([`crate::net::flows::port_forwards`]). At the other end those are new as well, and are answered through
//! the tunnel: the first rule of `prerouting_1`. What this host sends to itself keeps its address, which the
//! other end cannot answer if it is a loopback address.
//!
//! Each tunnel has base chains of its own because chains, unlike rules, are removed by name: there are no
//! rule handles to remember, and tunnels do not touch each other's.
//!
//! The two chains of type `nat` stay empty. While one exists, the kernel goes on translating flows that are
//! translated already, even if whoever set that up removes its own last chain (nf_nat_register_fn in the
//! kernel's net/netfilter/nf_nat_core.c).
//!
//! Whoever removes this table (`nft flush ruleset`) does not remove the rules that lead packets: the keeper of
//! each tunnel has them in a table of its own as well (`owned`).
//!
//! Every change is one transaction of `nft`. Concurrent callers need the lock on all tunnels.

mod chains;
mod expressions;
pub(crate) mod filter;
pub mod guard;
pub mod nft;
pub(crate) mod owned;
pub mod port_forward;
pub(crate) mod queue;
pub mod tunnel;
