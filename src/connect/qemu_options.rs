// SPDX-License-Identifier: MIT OR Apache-2.0
//! Corrects an address that was pasted from QEMU's command line.

/// The address in an option of QEMU's command line, if there are such options:
/// `unix:/path,server=on`, `tcp:host:port,server`, `socket,path=/path`, `path=/path`.
pub(super) fn without_qemu_options(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split(',').collect();
    let value = |key: &str| {
        let value = |word: &&str| word.strip_prefix(key)?.strip_prefix('=').map(str::to_owned);
        words.iter().find_map(value)
    };
    let is_abstract = matches!(value("abstract").as_deref(), Some("on"));
    let at = if is_abstract { "@" } else { "" };
    let first = words[0];
    if first == "socket" || ["path", "host", "port", "id"].contains(&key(first)) {
        let path = value("path").map(|path| format!("unix:{at}{path}"));
        let network = || {
            let host = value("host").filter(|host| !host.is_empty());
            let host = host.unwrap_or_else(|| "localhost".into());
            let port = value("port")?;
            if host.contains(':') && !host.starts_with('[') {
                return Some(format!("tcp:[{host}]:{port}"));
            }
            Some(format!("tcp:{host}:{port}"))
        };
        return path.or_else(network);
    }
    let end = words
        .iter()
        .skip(1)
        .position(|word| is_qemu_option(key(word)))?;
    let address = words[..=end].join(",");
    match address.strip_prefix("unix:") {
        Some(path) if is_abstract && !path.starts_with('@') => Some(format!("unix:@{path}")),
        _ => Some(address),
    }
}

fn key(option: &str) -> &str {
    option.split_once('=').map_or(option, |(key, _)| key)
}

/// Options of `-qmp`, `-monitor`, `-chardev socket` and `-spice` that follow an address.
fn is_qemu_option(key: &str) -> bool {
    [
        "abstract",
        "addr",
        "delay",
        "disable-ticketing",
        "id",
        "ipv4",
        "ipv6",
        "logfile",
        "mux",
        "nodelay",
        "noserver",
        "nowait",
        "password-secret",
        "reconnect",
        "reconnect-ms",
        "server",
        "telnet",
        "tight",
        "tls-creds",
        "to",
        "wait",
        "websocket",
    ]
    .contains(&key)
}

/// What follows `dbus,` in QEMU's option `-display`.
pub(super) fn dbus_as_for_qemu(options: &str) -> Option<String> {
    let options = options.replace(",,", "\0");
    let value = |key: &str| {
        options
            .split(',')
            .find_map(|option| option.strip_prefix(key))
    };
    match (value("p2p="), value("addr=")) {
        (Some("yes" | "on" | "true"), _) => None,
        (_, Some(bus)) => Some(format!("dbus:address={}", bus.replace('\0', ","))),
        _ => Some("dbus:".to_owned()),
    }
}
