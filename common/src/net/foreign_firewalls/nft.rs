//! Rules from nft's JSON (libnftables-json(5)), read without a schema: a ruleset may contain things that
//! no schema knows.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::Value;

use super::rules::{Question, Rule, Table, Test, Verdict};
use crate::net::rules::nft;

/// The tables with chains at the forward hook, and the names of those that contain rules made through
/// iptables.
pub(crate) fn tables(ruleset: &Value) -> (Vec<Table>, Vec<String>) {
    let mut tables = BTreeMap::<String, Table>::new();
    let mut opaque = Vec::new();
    let objects = || ruleset["nftables"].as_array().into_iter().flatten();
    for chain in objects().filter_map(|object| object.get("chain")) {
        let Some(table) = table_of(&mut tables, chain) else {
            continue;
        };
        let name = text(&chain["name"]);
        table.chains.entry(name.clone()).or_default();
        if chain["hook"] == "forward" && chain["type"] == "filter" {
            table.hooks.push((name, chain["policy"] == "drop"));
        }
    }
    for rule in objects().filter_map(|object| object.get("rule")) {
        let Some(table) = table_of(&mut tables, rule) else {
            continue;
        };
        let statements = rule["expr"].as_array().map_or(&[][..], Vec::as_slice);
        if statements.iter().any(|s| s.get("xt").is_some()) && !opaque.contains(&table.name) {
            opaque.push(table.name.clone());
        }
        let chain = table.chains.entry(text(&rule["chain"])).or_default();
        chain.extend(rules(statements));
    }
    let hooked = |table: &Table| !table.hooks.is_empty();
    (tables.into_values().filter(hooked).collect(), opaque)
}

/// The table that an object belongs to, unless packets of no interest pass it.
fn table_of<'a>(tables: &'a mut BTreeMap<String, Table>, object: &Value) -> Option<&'a mut Table> {
    let (family, table) = (object["family"].as_str()?, object["table"].as_str()?);
    if !matches!(family, "ip" | "ip6" | "inet") || nft::is_ours(table) {
        return None;
    }
    let name = format!("{family} {table}");
    Some(tables.entry(name.clone()).or_insert_with(|| Table {
        name,
        ipv4: family != "ip6",
        ipv6: family != "ip",
        ..Table::default()
    }))
}

/// The rules that a rule's statements amount to: one per verdict.
fn rules(statements: &[Value]) -> Vec<Rule> {
    let mut tests = Vec::new();
    let mut rules = Vec::new();
    for statement in statements {
        if let Some(map) = statement.get("vmap") {
            let elements = map["data"]["set"].as_array().into_iter().flatten();
            rules.extend(elements.filter_map(|element| {
                let question = question(&map["key"], &element[0]);
                let test = Test {
                    question,
                    negated: false,
                };
                Some(Rule {
                    verdict: verdict(&element[1])?,
                    tests: [&tests[..], &[test]].concat(),
                })
            }));
        } else if let Some(verdict) = verdict(statement) {
            rules.push(Rule {
                tests: tests.clone(),
                verdict,
            });
        } else if let Some(condition) = statement.get("match") {
            tests.push(Test {
                question: question(&condition["left"], &condition["right"]),
                negated: condition["op"] == "!=",
            });
        } else if statement.get("limit").is_some() || statement["xt"]["type"] == "match" {
            tests.push(Test::unknown());
        }
    }
    rules
}

fn verdict(statement: &Value) -> Option<Verdict> {
    let (name, what) = statement.as_object()?.iter().next()?;
    match name.as_str() {
        // If a program decides, assume that it lets the packet pass.
        "accept" | "queue" => Some(Verdict::Accept),
        "drop" | "reject" => Some(Verdict::Drop),
        "return" => Some(Verdict::Return),
        "jump" => Some(Verdict::Jump(text(&what["target"]))),
        "goto" => Some(Verdict::Goto(text(&what["target"]))),
        "xt" if what["name"] == "REJECT" => Some(Verdict::Drop),
        _ => None,
    }
}

fn question(left: &Value, right: &Value) -> Question {
    let right = values(right);
    let strings = || right.iter().filter_map(|value| value.as_str());
    // Names of sets.
    if strings().any(|string| string.starts_with('@')) {
        return Question::Unknown;
    }
    let has = |word: &str| strings().any(|string| string == word);
    let names = || strings().map(str::to_owned).collect();
    let nets = || right.iter().map(net).collect::<Option<Vec<_>>>();
    let payload = &left["payload"];
    let field = |left: &Value, what: &str| left[what]["key"].as_str().map(str::to_owned);
    match (
        field(left, "meta").as_deref(),
        field(left, "ct").as_deref(),
        payload["protocol"].as_str(),
        payload["field"].as_str(),
    ) {
        (Some("iifname" | "iif"), ..) => Question::Incoming(names()),
        (Some("oifname" | "oif"), ..) => Question::Outgoing(names()),
        (Some("nfproto"), ..) => Question::Family { ipv6: has("ipv6") },
        (Some("l4proto"), ..) | (.., Some("ip"), Some("protocol")) => Question::Fixed(has("tcp")),
        (_, Some("state"), ..) => Question::State {
            new: has("new"),
            established: has("established"),
        },
        (.., Some("ip" | "ip6"), Some("saddr")) => {
            nets().map_or(Question::Unknown, Question::Source)
        }
        (.., Some("ip" | "ip6"), Some("daddr")) => {
            nets().map_or(Question::Unknown, Question::Destination)
        }
        (.., Some("udp" | "icmp" | "icmpv6" | "sctp"), _) => Question::Fixed(false),
        _ => Question::Unknown,
    }
}

/// One value, or those of a set.
fn values(right: &Value) -> Vec<Value> {
    match right.get("set").unwrap_or(right) {
        Value::Array(values) => values.clone(),
        value => vec![value.clone()],
    }
}

fn net(value: &Value) -> Option<IpNet> {
    let prefix = &value["prefix"];
    if let (Some(address), Some(length)) = (prefix["addr"].as_str(), prefix["len"].as_u64()) {
        return format!("{address}/{length}").parse().ok();
    }
    let address: std::net::IpAddr = value.as_str()?.parse().ok()?;
    Some(address.into())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
