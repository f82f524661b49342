//! Protocol: RESP2, as far as a server needs it.

/// A reply of Redis.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Status(&'static str),
    Int(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Reply>),
    Error(String),
}

impl Reply {
    pub(super) fn nil_if_empty(self) -> Self {
        match self {
            Self::Array(items) if items.is_empty() => Self::Nil,
            other => other,
        }
    }
}

impl Reply {
    pub(super) fn bulk(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bulk(bytes.into())
    }

    pub(super) fn list<'b>(items: impl Iterator<Item = &'b Vec<u8>>) -> Self {
        Self::Array(items.map(|item| Self::Bulk(item.clone())).collect())
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Status(text) => out.extend(format!("+{text}\r\n").bytes()),
            Self::Int(number) => out.extend(format!(":{number}\r\n").bytes()),
            Self::Bulk(bytes) => {
                out.extend(format!("${}\r\n", bytes.len()).bytes());
                out.extend(bytes);
                out.extend(b"\r\n");
            }
            Self::Nil => out.extend(b"$-1\r\n"),
            Self::Array(items) => {
                out.extend(format!("*{}\r\n", items.len()).bytes());
                for item in items {
                    item.write(out);
                }
            }
            Self::Error(text) => out.extend(format!("-{text}\r\n").bytes()),
        }
    }
}

/// Takes the first whole command out of the bytes that were read.
pub(super) fn take_command(bytes: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let mut at = 0;
    let count = number(bytes, &mut at, b'*')?;
    let mut command = Vec::with_capacity(count);
    for _ in 0..count {
        let length = number(bytes, &mut at, b'$')?;
        let word = bytes.get(at..at + length)?.to_vec();
        at += length + 2;
        if at > bytes.len() {
            return None;
        }
        command.push(word);
    }
    bytes.drain(..at);
    Some(command)
}

/// Reads a line with a number.
fn number(bytes: &[u8], at: &mut usize, mark: u8) -> Option<usize> {
    let rest = bytes.get(*at..)?;
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    assert_eq!(
        rest[0], mark,
        "expected a command as an array of bulk strings"
    );
    *at += end + 2;
    std::str::from_utf8(&rest[1..end]).unwrap().parse().ok()
}
