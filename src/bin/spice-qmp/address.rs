//! Where a virtual machine is reached.

use crate::failure::Failure;

/// An address that was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A SPICE server: `spice://host:port` or `spice+unix:///path`.
    Spice(String),
    /// A QMP socket: `unix:/path` or `tcp:host:port`.
    Socket(String),
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        if holds_password(text) {
            // The address is not repeated.
            return Err(
                Failure::usage("the address holds a password, which others can see")
                    .hint("leave it out and use --password-file FILE or SPICE_QMP_PASSWORD"),
            );
        }
        if let Some(path) = text.strip_prefix("spice+unix:") {
            let valid = path.strip_prefix("//").is_some_and(is_absolute);
            return spice(text, valid, "spice+unix:///path/of/the/socket");
        }
        for scheme in ["spice:", "spice+tls:"] {
            if let Some(rest) = text.strip_prefix(scheme) {
                let valid = rest.strip_prefix("//").is_some_and(has_host_and_port);
                return spice(text, valid, "spice://host:port");
            }
        }
        if text.starts_with("unix:") || text.starts_with("tcp:") {
            return Ok(Self::Socket(text.to_owned()));
        }
        Err(unknown(text))
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Spice(address) | Self::Socket(address) => address,
        }
    }
}

fn spice(text: &str, valid: bool, form: &str) -> Result<Address, Failure> {
    if valid {
        return Ok(Address::Spice(text.to_owned()));
    }
    Err(Failure::usage(format!("{text:?} is no SPICE address"))
        .hint(format!("it has the form {form}")))
}

fn unknown(text: &str) -> Failure {
    let failure = Failure::usage(format!("{text:?} is no address"));
    let path = text.trim_start_matches("file://");
    if is_absolute(path) {
        failure.hint(format!(
            "use unix:{path} for a QMP socket, spice+unix://{path} for a SPICE server"
        ))
    } else if !text.contains('/') && has_host_and_port(text) {
        failure.hint(format!(
            "use tcp:{text} for a QMP socket, spice://{text} for a SPICE server"
        ))
    } else {
        failure.hint("use spice://host:port, spice+unix:///path, unix:/path or tcp:host:port")
    }
}

/// Whether spice-gtk would take a password from this address.
fn holds_password(text: &str) -> bool {
    let query = text.split_once('?').map_or("", |(_, query)| query);
    let authority = text.split_once("//").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    query.to_ascii_lowercase().contains("password=") || user.contains(':')
}

fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && path.len() > 1
}

/// `host:port` or `[address]:port`, or `host?port=...`, which spice-gtk knows too.
fn has_host_and_port(rest: &str) -> bool {
    let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = authority.trim_end_matches('/');
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    let port_follows = port.is_empty() && query.contains("port=");
    !host.is_empty() && (port_follows || port.parse::<u16>().is_ok_and(|port| port != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_spice_servers() {
        for text in [
            "spice://host:5900",
            "spice://host:5900/",
            "spice://[::1]:5900",
            "spice://host?port=5900",
            "spice://host?tls-port=5901",
            "spice+tls://host:5901",
            "spice+unix:///run/spice.sock",
        ] {
            let address = Address::parse(text).expect(text);
            assert_eq!(address, Address::Spice(text.into()));
        }
    }

    #[test]
    fn addresses_of_sockets() {
        for text in ["unix:/run/qmp.sock", "unix:qmp.sock", "tcp:host:4444"] {
            let address = Address::parse(text).expect(text);
            assert_eq!(address, Address::Socket(text.into()));
        }
    }

    #[test]
    fn what_is_no_address() {
        for text in [
            "",
            "/run/qmp.sock",
            "host:5900",
            "http://host:5900",
            "spice:",
            "spice://",
            "spice://host",
            "spice://host:0",
            "spice://host:port",
            "spice://:5900",
            "spice://[::1]",
            "spice+unix:/run/spice.sock",
            "spice+unix://run/spice.sock",
            "spice+unix:///",
        ] {
            Address::parse(text).expect_err(text);
        }
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        for text in [
            "spice://host:5900?password=geheim",
            "spice://host?port=5900&Password=geheim",
            "spice://me:geheim@host:5900",
        ] {
            let error = Address::parse(text).expect_err(text);
            assert!(!format!("{error:?}").contains("geheim"));
        }
    }
}
