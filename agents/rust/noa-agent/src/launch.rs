//! How the engine launches an agent: what the environment says.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::{env, fmt};

use crate::PROTOCOL_VERSION;

/// Where an agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A unix socket of this path.
    Unix(PathBuf),
    /// A port of the loopback interface.
    Tcp(SocketAddr),
}

/// What the engine tells an agent at its start.
#[derive(Clone)]
pub struct Launch {
    /// Where to listen.
    pub listen: Listen,
    /// What every call must carry.
    pub token: String,
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// Why an agent cannot start as it was launched. The text is the one line for stderr.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaunchError {
    /// The engine speaks another version of the contract.
    #[error("NOA_AGENT_PROTOCOL is {engine}, this agent speaks {PROTOCOL_VERSION}")]
    Protocol {
        /// What the engine speaks.
        engine: String,
    },
    /// A variable that must be there is missing or empty.
    #[error("{0} is not set; an engine sets it when it starts an agent")]
    Missing(&'static str),
    /// The place to listen is not one that the contract allows.
    #[error("NOA_AGENT_LISTEN is '{0}', expected unix:/absolute/path.sock or 127.0.0.1:PORT")]
    Listen(String),
}

impl Launch {
    /// Reads `NOA_AGENT_PROTOCOL`, `NOA_AGENT_LISTEN` and `NOA_AGENT_TOKEN`.
    ///
    /// # Errors
    /// One of them is missing or not usable.
    pub fn from_env() -> Result<Self, LaunchError> {
        Self::read(|name| env::var(name).ok())
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, LaunchError> {
        let required = |name| variable(name).filter(|value| !value.is_empty()).ok_or(LaunchError::Missing(name));
        let engine = required("NOA_AGENT_PROTOCOL")?;
        if engine.parse() != Ok(PROTOCOL_VERSION) {
            return Err(LaunchError::Protocol { engine });
        }
        Ok(Self { listen: parse_listen(required("NOA_AGENT_LISTEN")?)?, token: required("NOA_AGENT_TOKEN")? })
    }
}

fn parse_listen(text: String) -> Result<Listen, LaunchError> {
    let unix = text.strip_prefix("unix:").map(PathBuf::from).filter(|path| path.is_absolute());
    let tcp = || text.parse().ok().filter(|address: &SocketAddr| address.ip() == IpAddr::from([127, 0, 0, 1]));
    match unix.map(Listen::Unix).or_else(|| tcp().map(Listen::Tcp)) {
        Some(listen) => Ok(listen),
        None => Err(LaunchError::Listen(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launched(protocol: &str, listen: &str, token: &str) -> Result<Launch, LaunchError> {
        Launch::read(|name| {
            let value = match name {
                "NOA_AGENT_PROTOCOL" => protocol,
                "NOA_AGENT_LISTEN" => listen,
                _ => token,
            };
            (value != "-").then(|| value.to_owned())
        })
    }

    #[test]
    fn both_places_to_listen_are_understood() {
        assert_eq!(launched("1", "unix:/a/b.sock", "t").unwrap().listen, Listen::Unix("/a/b.sock".into()));
        let Listen::Tcp(address) = launched("1", "127.0.0.1:8000", "t").unwrap().listen else { panic!() };
        assert_eq!(address.port(), 8000);
    }

    #[test]
    fn other_places_are_refused() {
        for place in ["unix:relative.sock", "0.0.0.0:80", "127.0.0.1", "localhost:80", "8000"] {
            assert_eq!(launched("1", place, "t").unwrap_err(), LaunchError::Listen(place.into()));
        }
    }

    #[test]
    fn the_line_names_the_variable() {
        assert_eq!(launched("-", "unix:/a", "t").unwrap_err(), LaunchError::Missing("NOA_AGENT_PROTOCOL"));
        assert_eq!(launched("", "unix:/a", "t").unwrap_err(), LaunchError::Missing("NOA_AGENT_PROTOCOL"));
        assert_eq!(launched("1", "-", "t").unwrap_err(), LaunchError::Missing("NOA_AGENT_LISTEN"));
        assert_eq!(launched("1", "unix:/a", "").unwrap_err(), LaunchError::Missing("NOA_AGENT_TOKEN"));
    }

    #[test]
    fn the_line_names_both_versions() {
        let line = launched("7", "-", "-").unwrap_err().to_string();
        assert!(line.contains('7') && line.contains('1'), "{line}");
    }

    #[test]
    fn the_token_is_not_shown() {
        assert!(!format!("{:?}", launched("1", "unix:/a", "secret").unwrap()).contains("secret"));
    }
}
