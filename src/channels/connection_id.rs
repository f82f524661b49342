//! ConnectionId: the name of a connection, unique among all processes.

use std::fmt;

use serde::{Serialize, Serializer};

/// The name of a connection, unique among all processes, written as `NODE.NUMBER`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnectionId {
    /// The number that identifies its process among all that ever ran.
    pub node: u64,
    /// Its number in the process.
    pub number: u64,
}

impl ConnectionId {
    /// Reads a name; `None` if it is none.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (node, number) = text.split_once('.')?;
        let is_node = node.len() == 16 && node.bytes().all(|digit| digit.is_ascii_hexdigit());
        let is_number = number.bytes().all(|digit| digit.is_ascii_digit());
        (is_node && is_number).then_some(())?;
        Some(Self {
            node: u64::from_str_radix(node, 16).ok()?,
            number: number.parse().ok()?,
        })
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.node, self.number)
    }
}

impl Serialize for ConnectionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
