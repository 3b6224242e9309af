//! `HOST[:PORT]` of a destination.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// Where agent-server listens unless told otherwise.
const DEFAULT_PORT: u16 = 50051;

/// A destination as the user names it, with its port; peers are pinned under this text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not HOST or HOST:PORT");
        let (host, port) = if let Ok(address) = text.parse::<Ipv6Addr>() {
            (format!("[{address}]"), DEFAULT_PORT)
        } else if text.ends_with(']') {
            (text.to_owned(), DEFAULT_PORT)
        } else {
            match text.rsplit_once(':') {
                Some((host, port)) => (host.to_owned(), port.parse().map_err(|_| bad())?),
                None => (text.to_owned(), DEFAULT_PORT),
            }
        };
        let plain = !host.is_empty() && !host.contains(char::is_whitespace);
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if !plain || (host.contains(':') && !bracketed) {
            return Err(bad());
        }
        Ok(Address { host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_optional() {
        for (text, expected) in [
            ("b", "b:50051"),
            ("b:1", "b:1"),
            ("192.0.2.1", "192.0.2.1:50051"),
            ("2001:db8::1", "[2001:db8::1]:50051"),
            ("[2001:db8::1]", "[2001:db8::1]:50051"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), expected);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", ":1", "b:x", "b:99999", "a b", "a:b:c:1"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
