//! Bind addresses: the addresses that the server listens on.

use std::fmt;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

/// One address to listen on: `127.0.0.1:8000`, `[::1]:8000`, `localhost:8000`,
/// `unix:run/oneport.sock`, or `fd:3` for an inherited socket. Displayed as it is written.
///
/// ```
/// use oneport::config::Bind;
/// assert_eq!("fd:3".parse(), Ok(Bind::Fd(3)));
/// assert_eq!("unix:run/a.sock".parse::<Bind>()?.to_string(), "unix:run/a.sock");
/// assert!("8000".parse::<Bind>().is_err());
/// # Ok::<(), oneport::config::BindError>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub enum Bind {
    /// A host and a port. A name is looked up when the server starts to listen.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// The number of a file descriptor that the parent process left open.
    Fd(i32),
}

/// The reason why a text is not a bind address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected an address such as \"127.0.0.1:8000\", \"unix:run/oneport.sock\" or \"fd:3\", found {found:?}{why}"
)]
pub struct BindError {
    found: String,
    why: &'static str,
}

/// The longest path of a Unix socket, one byte less than `sun_path` for the NUL at its end.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNIX_PATH_BYTES_MAX: usize = 107;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const UNIX_PATH_BYTES_MAX: usize = 103;

/// Returns an error message if the path of a Unix socket is longer than the system allows.
#[must_use]
pub fn unix_path_problem(path: &Path) -> Option<String> {
    let found = path.as_os_str().len();
    (found > UNIX_PATH_BYTES_MAX).then(|| {
        format!(
            "expected a socket path of at most {UNIX_PATH_BYTES_MAX} bytes, which is the system's limit, found {found}"
        )
    })
}

impl Bind {
    /// Returns the port, if it is a TCP address with one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => address.rsplit_once(':')?.1.parse().ok(),
            _ => None,
        }
    }

    /// Returns the same address with a relative socket path resolved against this directory.
    pub(crate) fn relative_to(self, base: &Path) -> Self {
        match self {
            Self::Unix(path) => Self::Unix(base.join(path)),
            other => other,
        }
    }
}

impl FromStr for Bind {
    type Err = BindError;

    fn from_str(text: &str) -> Result<Self, BindError> {
        let refuse = |why| BindError {
            found: text.to_owned(),
            why,
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err(refuse("; the path is missing"))
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        if let Some(number) = text.strip_prefix("fd:") {
            let number = number.parse().ok().filter(|number: &i32| *number >= 0);
            return number
                .map(Self::Fd)
                .ok_or_else(|| refuse("; fd: is followed by a number, 0 or more"));
        }
        if text.contains("://") {
            return Err(refuse("; it is an address, not a URL"));
        }
        if text.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(refuse(
                "; an IPv6 address needs brackets, followed by a port",
            ));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(refuse("; the host or the port is missing"));
        };
        if port.parse::<u16>().is_err() || port.starts_with('+') {
            return Err(refuse("; the port is a number from 0 to 65535"));
        }
        if host.is_empty() {
            return Err(refuse(
                "; the host is missing, 0.0.0.0 is every IPv4 address of this machine",
            ));
        }
        if !is_host(host) {
            return Err(refuse("; the part before the port is not a host"));
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

/// Returns whether the text is a name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')),
    }
}

impl TryFrom<String> for Bind {
    type Error = BindError;

    fn try_from(text: String) -> Result<Self, BindError> {
        text.parse()
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(number) => write!(f, "fd:{number}"),
        }
    }
}

/// One entry of `server.bind`: an address alone, or a table
/// `{ address = "...", websocket_over_http2 = false }`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listen {
    /// The address.
    pub address: Bind,
    /// Whether clients may open WebSockets over HTTP/2 (RFC 8441). Default: `true`.
    pub websocket_over_http2: bool,
    /// Whether the listener speaks TLS, if `[server.tls]` exists. Default: `true`, except for a
    /// unix socket, which never does.
    pub tls: bool,
    /// The permissions of a unix socket's file; `None`: according to the process's umask.
    pub mode: Option<u32>,
    /// The group of a unix socket's file, by name or number; `None`: the process's group.
    pub group: Option<String>,
    /// The most connections that the kernel queues until they are accepted. Default: 4096.
    pub backlog: u16,
}

/// The default of [`Listen::backlog`], which is Linux's own bound as well.
const BACKLOG: u16 = 4096;

/// The largest [`Listen::backlog`].
pub(super) const BACKLOG_MAX: u16 = u16::MAX;

impl From<Bind> for Listen {
    fn from(address: Bind) -> Self {
        Self {
            tls: !matches!(address, Bind::Unix(_)),
            address,
            websocket_over_http2: true,
            mode: None,
            group: None,
            backlog: BACKLOG,
        }
    }
}

impl Listen {
    /// Returns whether a unix socket's file has the same permissions and group in both entries.
    pub(crate) fn has_access_of(&self, other: &Self) -> bool {
        self.mode == other.mode && self.group == other.group
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            address: Bind,
            #[serde(default = "yes")]
            websocket_over_http2: bool,
            #[serde(default)]
            tls: Option<bool>,
            #[serde(default)]
            mode: Option<Mode>,
            #[serde(default)]
            group: Option<String>,
            #[serde(default)]
            backlog: Option<NonZeroU16>,
        }
        struct Written;
        impl<'de> Visitor<'de> for Written {
            type Value = Listen;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a table with one")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
                text.parse::<Bind>().map(Listen::from).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Listen, A::Error> {
                let Table {
                    address,
                    websocket_over_http2,
                    tls,
                    mode,
                    group,
                    backlog,
                } = Table::deserialize(MapAccessDeserializer::new(map))?;
                if (mode.is_some() || group.is_some()) && !matches!(address, Bind::Unix(_)) {
                    return Err(de::Error::custom(format_args!(
                        "expected mode and group for a unix socket only, found them for {address}"
                    )));
                }
                if tls == Some(true) && matches!(address, Bind::Unix(_)) {
                    return Err(de::Error::custom(format_args!(
                        "expected tls for a TCP listener only, found it for {address}"
                    )));
                }
                if backlog.is_some() && matches!(address, Bind::Fd(_)) {
                    return Err(de::Error::custom(format_args!(
                        "expected backlog for a listener that this process opens, found it for {address}"
                    )));
                }
                Ok(Listen {
                    backlog: backlog.map_or(BACKLOG, NonZeroU16::get),
                    tls: tls.unwrap_or(!matches!(address, Bind::Unix(_))),
                    address,
                    websocket_over_http2,
                    mode: mode.map(|Mode(bits)| bits),
                    group,
                })
            }
        }
        deserializer.deserialize_any(Written)
    }
}

/// The permissions of a file as `chmod` takes them: `"0660"`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Mode(u32);

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_octal =
            (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| is_octal && *mode <= 0o777)
            .map(Self)
            .ok_or_else(|| {
                format!("expected permissions in octal, such as \"0660\", found {text:?}")
            })
    }
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for text in [
            "127.0.0.1:8000",
            "[::1]:8000",
            "localhost:0",
            "unix:run/oneport.sock",
            "fd:3",
        ] {
            assert_eq!(text.parse::<Bind>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_addresses_say_what_is_missing() {
        let check = |text: &str, part: &str| {
            let error = text.parse::<Bind>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        };
        check("8000", "the host or the port is missing");
        check("localhost", "the host or the port is missing");
        check(":8000", "0.0.0.0");
        check("http://localhost:8000", "not a URL");
        check("localhost:http", "from 0 to 65535");
        check("localhost:70000", "from 0 to 65535");
        check("::1", "needs brackets");
        check("::1:8000", "needs brackets");
        check("[::x]:8000", "not a host");
        check("unix:", "path is missing");
        check("fd:-1", "0 or more");
        check("fd:x", "0 or more");
    }
}
