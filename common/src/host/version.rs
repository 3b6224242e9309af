//! Versions of programs.

/// `5.8.2` and `5.8.0+dfsg1` as numbers that can be compared: up to three, missing ones are zero.
pub fn version_numbers(version: &str) -> (u32, u32, u32) {
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(version_numbers("5.10.0") > version_numbers("5.8.2"));
        assert_eq!(version_numbers("1.26"), (1, 26, 0));
        assert_eq!(version_numbers("1.3.3+ds1"), (1, 3, 3));
    }
}
