//! Numbers of processors and of memory nodes, as the kernel lists them: `0-3,8` (cpuset(7), "List format").

use std::collections::BTreeSet;

/// No host has more.
const MOST: u32 = 1 << 16;

/// The processors that programs can run on here.
pub fn online() -> BTreeSet<u32> {
    listed("/sys/devices/system/cpu/online")
}

/// The memory nodes of this host; a kernel that knows of none has one.
pub fn memory_nodes() -> BTreeSet<u32> {
    let nodes = listed("/sys/devices/system/node/online");
    if nodes.is_empty() { [0].into() } else { nodes }
}

fn listed(path: &str) -> BTreeSet<u32> {
    numbers(&std::fs::read_to_string(path).unwrap_or_default())
}

/// Those of a list. What is no number, or too large, is passed over.
pub fn numbers(list: &str) -> BTreeSet<u32> {
    let ranges = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.trim().parse().ok().filter(|number| *number < MOST);
        Some(number(first)?..=number(last)?)
    });
    ranges.flatten().collect()
}

/// The list of these.
pub fn list(numbers: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let ranges = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    ranges.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for text in ["", "0", "0-3", "0-1,4,6-7"] {
            assert_eq!(list(&numbers(text)), text);
        }
        assert_eq!(list(&numbers("1,0, 2\n")), "0-2");
        assert!(numbers("x,-,3-1,0-99999999999,70000").is_empty());
        assert!(!online().is_empty());
    }
}
