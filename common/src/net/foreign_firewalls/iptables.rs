//! Rules as `iptables-save` prints them, which is what iptables-restore(8) reads.

use ipnet::IpNet;

use super::rules::{Question, Rule, Table, Test, Verdict};

/// The filter table, if there is one; `program` is `iptables` or `ip6tables`.
pub(crate) fn table(program: &str, saved: &str) -> Option<Table> {
    let mut table = Table {
        name: program.to_owned(),
        iptables: true,
        ipv4: program == "iptables",
        ipv6: program == "ip6tables",
        ..Table::default()
    };
    for line in saved.lines() {
        if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split(' ');
            let (name, policy) = (words.next()?, words.next()?);
            table.chains.entry(name.to_owned()).or_default();
            if name == "FORWARD" {
                table.hooks.push((name.to_owned(), policy == "DROP"));
            }
        }
    }
    for line in saved.lines() {
        let Some((chain, rest)) = line.strip_prefix("-A ").and_then(|l| l.split_once(' ')) else {
            continue;
        };
        if let Some(rule) = rule(&words(rest), &table) {
            table.chains.entry(chain.to_owned()).or_default().push(rule);
        }
    }
    (!table.hooks.is_empty()).then_some(table)
}

/// A rule, if it has a verdict.
fn rule(words: &[String], table: &Table) -> Option<Rule> {
    let mut tests = Vec::new();
    let mut words = words.iter().map(String::as_str);
    let mut negated = false;
    while let Some(word) = words.next() {
        let question = match word {
            "!" => {
                negated = true;
                continue;
            }
            "-j" | "-g" => {
                let target = words.next()?;
                let verdict = match target {
                    // If a program decides, assume that it lets the packet pass.
                    "ACCEPT" | "NFQUEUE" => Verdict::Accept,
                    "DROP" | "REJECT" => Verdict::Drop,
                    "RETURN" => Verdict::Return,
                    chain if !table.chains.contains_key(chain) => return None,
                    chain if word == "-j" => Verdict::Jump(chain.to_owned()),
                    chain => Verdict::Goto(chain.to_owned()),
                };
                return Some(Rule { tests, verdict });
            }
            // Only says what the next options are about.
            "-m" | "--comment" => {
                words.next();
                continue;
            }
            "-i" => Question::Incoming(vec![pattern(words.next()?)]),
            "-o" => Question::Outgoing(vec![pattern(words.next()?)]),
            "-s" => nets(words.next()?).map_or(Question::Unknown, Question::Source),
            "-d" => nets(words.next()?).map_or(Question::Unknown, Question::Destination),
            "-p" => Question::Fixed(matches!(words.next()?, "tcp" | "all")),
            "--ctstate" | "--state" => {
                let states: Vec<_> = words.next()?.split(',').collect();
                Question::State {
                    new: states.contains(&"NEW"),
                    established: states.contains(&"ESTABLISHED"),
                }
            }
            option if option.starts_with('-') => Question::Unknown,
            // The value of an unknown option.
            _ => continue,
        };
        tests.push(Test { question, negated });
        negated = false;
    }
    None
}

/// nft's way to write it.
fn pattern(name: &str) -> String {
    match name.strip_suffix('+') {
        Some(start) => format!("{start}*"),
        None => name.to_owned(),
    }
}

fn nets(net: &str) -> Option<Vec<IpNet>> {
    let address = || net.parse::<std::net::IpAddr>().map(IpNet::from);
    Some(vec![net.parse().or_else(|_| address()).ok()?])
}

/// The words of a line; comments are quoted.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for c in line.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => {
                escaped = true;
                continue;
            }
            '"' => {
                quoted = !quoted;
                continue;
            }
            ' ' if !quoted => {
                words.push(String::new());
                continue;
            }
            _ => {}
        }
        words.last_mut().expect("never empty").push(c);
    }
    words
}
