//! The expressions and statements of nftables that our rules are made of.

use std::net::IpAddr;

use nftables::expr::{
    BinaryOperation, CT, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression,
    Payload, PayloadField, Prefix,
};
use nftables::stmt::{Mangle, Match, Operator, Statement};

use crate::net::mark::{Direction, FWMARK_MASK, Index, Mark};

pub(super) fn equal(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match {
        left,
        right,
        op: Operator::EQ,
    })
}

pub(super) fn ct(key: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT {
        key: key.into(),
        family: None,
        dir: None,
    }))
}

pub(super) fn and(left: Expression<'static>, mask: u32) -> Expression<'static> {
    let operands = BinaryOperation::AND(left, Expression::Number(mask));
    Expression::BinaryOperation(Box::new(operands))
}

pub(super) fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub(super) fn mark() -> Expression<'static> {
    meta(MetaKey::Mark)
}

pub(super) fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(
        PayloadField {
            protocol: protocol.into(),
            field: field.into(),
        },
    )))
}

pub(super) fn prefix(address: &'static str, len: u32) -> Expression<'static> {
    Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(Expression::String(address.into())),
        len,
    }))
}

pub(super) fn text(address: &IpAddr) -> Expression<'static> {
    Expression::String(address.to_string().into())
}

/// Replaces the bits of a mark that are in `mask`.
pub(super) fn replace(mark: Expression<'static>, mask: u32, bits: u32) -> Statement<'static> {
    Statement::Mangle(Mangle {
        key: mark.clone(),
        value: Expression::BinaryOperation(Box::new(BinaryOperation::OR(vec![
            and(mark, !mask),
            Expression::Number(bits),
        ]))),
    })
}

/// Replaces our bits of the mark.
pub(super) fn set_mark(bits: u32) -> Statement<'static> {
    replace(mark(), FWMARK_MASK, bits)
}

/// Has one direction of the flow take the tunnel.
pub(super) fn set_ct_mark(direction: Direction, index: Index) -> Statement<'static> {
    let bits = Mark(0).with(direction, Some(index)).0;
    replace(ct("mark"), direction.mask(), bits)
}

/// That a packet's source or destination is this host.
pub(super) fn is_local(end: FibFlag) -> Match<'static> {
    Match {
        left: Expression::Named(NamedExpression::Fib(Fib {
            result: FibResult::Type,
            flags: [end].into(),
        })),
        right: Expression::String("local".into()),
        op: Operator::EQ,
    }
}

/// That a packet is of this direction of its flow.
pub(super) fn in_direction(direction: Direction) -> Statement<'static> {
    let name = match direction {
        Direction::Original => "original",
        Direction::Reply => "reply",
    };
    equal(ct("direction"), Expression::String(name.into()))
}

pub(super) fn leaves_through(index: Index) -> Statement<'static> {
    let interface = Expression::String(index.interface().into());
    equal(meta(MetaKey::Oifname), interface)
}

pub(super) fn came_through(index: Index) -> Statement<'static> {
    equal(
        meta(MetaKey::Iifname),
        Expression::String(index.interface().into()),
    )
}

/// A family's names in `meta nfproto` and as a protocol.
pub(super) fn family(address: IpAddr) -> (&'static str, &'static str) {
    match address {
        IpAddr::V4(_) => ("ipv4", "ip"),
        IpAddr::V6(_) => ("ipv6", "ip6"),
    }
}
