// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests addresses, and texts that look like one.

use super::*;

#[test]
fn addresses() {
    let spice = |uri: &str| Address::Spice(uri.into());
    let tcp = |host: &str, port| Address::Tcp {
        host: host.into(),
        port,
    };
    for text in [
        "spice://host:5900",
        "spice://host:5900/",
        "spice://me@host:5900",
        "spice://[::1]:5900",
        "spice://host?port=5900",
        "spice://host?tls-port=5901",
        "spice://host?port=5900&tls-port=5901",
        "spice+tls://host:5901",
        "spice+unix:///run/spice.sock",
        "spice+unix:///run/my machine,server.sock",
        "spice+unix://./spice.sock",
        "spice+unix://../spice.sock",
    ] {
        assert_eq!(Address::parse(text), Ok(spice(text)), "{text}");
    }
    for (text, address, shown) in [
        (
            "unix:/run/q.sock",
            Address::Unix("/run/q.sock".into()),
            "unix:/run/q.sock",
        ),
        ("unix:q.sock", Address::Unix("q.sock".into()), "unix:q.sock"),
        (
            "unix:///run/q",
            Address::Unix("/run/q".into()),
            "unix:/run/q",
        ),
        (
            "unix:/my vms/a, b",
            Address::Unix("/my vms/a, b".into()),
            "unix:/my vms/a, b",
        ),
        ("unix:./@q", Address::Unix("./@q".into()), "unix:./@q"),
        ("unix:@q", Address::Abstract("q".into()), "unix:@q"),
        ("tcp:host:4444", tcp("host", 4444), "tcp:host:4444"),
        ("host:4444", tcp("host", 4444), "tcp:host:4444"),
        ("127.0.0.1:1", tcp("127.0.0.1", 1), "tcp:127.0.0.1:1"),
        ("[::1]:65535", tcp("::1", 65535), "tcp:[::1]:65535"),
        (
            "tcp:[fe80::1%lo]:1",
            tcp("fe80::1%lo", 1),
            "tcp:[fe80::1%lo]:1",
        ),
    ] {
        let parsed = Address::parse(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((&parsed, &*parsed.to_string()), (&address, shown), "{text}");
        assert_eq!(Address::parse(shown), Ok(address));
    }
}

#[test]
fn addresses_on_a_bus() {
    let dbus = |bus: Option<&str>, name: &str| Address::Dbus {
        bus: bus.map(Into::into),
        name: name.into(),
    };
    let path = "unix:path=/run/user/7/bus,guid=00112233445566778899aabbccddeeff";
    let two = "unix:abstract=/tmp/x;tcp:host=localhost,port=7";
    for (text, address, shown) in [
        ("dbus:", dbus(None, "org.qemu"), "dbus:"),
        ("dbus:org.qemu", dbus(None, "org.qemu"), "dbus:"),
        (
            "dbus:org.vm.a-1",
            dbus(None, "org.vm.a-1"),
            "dbus:org.vm.a-1",
        ),
        ("dbus::1.42", dbus(None, ":1.42"), "dbus::1.42"),
        (
            &format!("dbus:address={path}"),
            dbus(Some(path), "org.qemu"),
            &format!("dbus:address={path}"),
        ),
        (
            &format!("dbus:address={path},name=org.qemu"),
            dbus(Some(path), "org.qemu"),
            &format!("dbus:address={path}"),
        ),
        (
            &format!("dbus:address={two},name=org.vm"),
            dbus(Some(two), "org.vm"),
            &format!("dbus:address={two},name=org.vm"),
        ),
    ] {
        let parsed = Address::parse(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((&parsed, &*parsed.to_string()), (&address, shown), "{text}");
        assert_eq!(Address::parse(shown), Ok(address));
    }
}

type Case = (&'static str, AddressFault, Option<&'static str>);

/// What is wrong with each, and what was probably meant.
fn check(cases: &[Case]) {
    for &(text, fault, instead) in cases {
        let error = Address::parse(text).expect_err(text);
        assert_eq!((error.fault(), error.instead()), (fault, instead), "{text}");
        let meant = error.instead().map(Address::parse);
        assert!(!matches!(meant, Some(Err(_))), "{text}: {meant:?}");
    }
}

#[test]
fn paths_that_are_not_addresses() {
    use AddressFault as Fault;
    check(&[
        ("", Fault::Empty, None),
        (" \t", Fault::Empty, None),
        ("unix:", Fault::NoPath, None),
        ("unix:@", Fault::NoPath, None),
        ("unix://", Fault::Form, None),
        ("unix:///", Fault::Form, None),
        ("unix://run/q", Fault::Form, Some("unix:/run/q")),
        ("unix: /run/q", Fault::Space, Some("unix:/run/q")),
        (" unix:/run/q", Fault::Space, Some("unix:/run/q")),
        ("unix:/a\0b", Fault::Nul, None),
        ("unix:path=/run/q", Fault::Form, Some("unix:/run/q")),
        ("Unix:/run/q", Fault::Form, Some("unix:/run/q")),
        ("/run/q", Fault::Form, Some("unix:/run/q")),
        ("./q", Fault::Form, Some("unix:./q")),
        ("vm/q.sock", Fault::Form, Some("unix:vm/q.sock")),
        ("@q", Fault::Form, Some("unix:@q")),
        ("file:///run/q", Fault::Form, Some("unix:/run/q")),
    ]);
}

#[test]
fn buses_that_are_not_addresses() {
    use AddressFault as Fault;
    check(&[
        ("dbus", Fault::Form, Some("dbus:")),
        ("DBus:org.qemu", Fault::Form, Some("dbus:")),
        ("dbus:name=org.vm", Fault::Form, Some("dbus:org.vm")),
        (
            "dbus:addr=unix:path=/b",
            Fault::Form,
            Some("dbus:address=unix:path=/b"),
        ),
        (
            "dbus:unix:path=/b",
            Fault::Form,
            Some("dbus:address=unix:path=/b"),
        ),
        (
            "dbus,addr=unix:path=/b,,guid=00112233445566778899aabbccddeeff,gl=on",
            Fault::QemuOptions,
            Some("dbus:address=unix:path=/b,guid=00112233445566778899aabbccddeeff"),
        ),
        ("dbus,gl=on", Fault::QemuOptions, Some("dbus:")),
        ("dbus,p2p=yes", Fault::QemuOptions, None),
        (
            "dbus:address=unix:path=/b,,guid=00112233445566778899aabbccddeeff",
            Fault::QemuOptions,
            Some("dbus:address=unix:path=/b,guid=00112233445566778899aabbccddeeff"),
        ),
        ("dbus:qemu", Fault::BadBusName, None),
        ("dbus:org.qemu ", Fault::BadBusName, None),
        ("dbus:org..qemu", Fault::BadBusName, None),
        ("dbus:address=unix:path=/b,name=", Fault::BadBusName, None),
        ("dbus:address=", Fault::BadBus, None),
        ("dbus:address=nonsense", Fault::BadBus, None),
        ("dbus:address=autolaunch:", Fault::BadBus, None),
        ("dbus:address=unix:path=/b;autolaunch:", Fault::BadBus, None),
        ("dbus:address=unixexec:path=/bin/sh", Fault::BadBus, None),
        (
            "dbus:address=/run/bus",
            Fault::BadBus,
            Some("dbus:address=unix:path=/run/bus"),
        ),
        ("dbus:a\0b", Fault::Nul, None),
    ]);
}

#[test]
fn hosts_that_are_not_addresses() {
    use AddressFault as Fault;
    check(&[
        ("telnet:h:1", Fault::Form, Some("tcp:h:1")),
        ("telnet://h:1", Fault::Form, Some("tcp:h:1")),
        ("tcp://h:1", Fault::Form, Some("tcp:h:1")),
        ("TCP:h:1", Fault::Form, Some("tcp:h:1")),
        ("tcp:", Fault::NoHost, None),
        ("tcp:h", Fault::NoPort, None),
        ("tcp:h:", Fault::NoPort, None),
        ("tcp:h:0", Fault::BadPort, None),
        ("tcp:h:65536", Fault::BadPort, None),
        ("tcp:h:+1", Fault::BadPort, None),
        ("tcp:h:port", Fault::BadPort, None),
        ("tcp::1", Fault::NoHost, Some("tcp:localhost:1")),
        ("tcp:h :1", Fault::Space, Some("tcp:h:1")),
        ("tcp:h:1 ", Fault::Space, Some("tcp:h:1")),
        ("tcp:a/b:1", Fault::BadHost, None),
        ("tcp:[x]:1", Fault::BadHost, None),
        ("tcp:[::1]", Fault::NoPort, None),
        ("tcp:[::1]1", Fault::BadPort, None),
        (
            "tcp:fe80::1:1",
            Fault::Ipv6Brackets,
            Some("tcp:[fe80::1]:1"),
        ),
        ("::1:4444", Fault::Ipv6Brackets, Some("tcp:[::1]:4444")),
        ("localhost", Fault::Form, None),
        ("http://h:1", Fault::Form, None),
        ("vnc://h:1", Fault::Form, None),
    ]);
}

#[test]
fn options_of_qemus_command_line() {
    use AddressFault as Fault;
    check(&[
        (
            "unix:/p,server=on,wait=off",
            Fault::QemuOptions,
            Some("unix:/p"),
        ),
        ("unix:/p,server,nowait", Fault::QemuOptions, Some("unix:/p")),
        ("unix:/p,x,server", Fault::QemuOptions, Some("unix:/p,x")),
        (
            "unix:/p,server=on,abstract=on",
            Fault::QemuOptions,
            Some("unix:@/p"),
        ),
        ("unix:///p,server=on", Fault::QemuOptions, Some("unix:/p")),
        (
            "tcp:h:1,server=on,wait=off",
            Fault::QemuOptions,
            Some("tcp:h:1"),
        ),
        ("tcp::1,server", Fault::QemuOptions, Some("tcp:localhost:1")),
        ("tcp://h:1/,server", Fault::QemuOptions, Some("tcp:h:1")),
        (
            "telnet:h:1,server,nowait",
            Fault::QemuOptions,
            Some("tcp:h:1"),
        ),
        ("/p,server=on", Fault::QemuOptions, Some("unix:/p")),
        (
            "socket,id=a,path=/p,server=on",
            Fault::QemuOptions,
            Some("unix:/p"),
        ),
        (
            "socket,path=p,abstract=on",
            Fault::QemuOptions,
            Some("unix:@p"),
        ),
        (
            "socket,host=h,port=1,server=on",
            Fault::QemuOptions,
            Some("tcp:h:1"),
        ),
        ("host=::1,port=1", Fault::QemuOptions, Some("tcp:[::1]:1")),
        ("path=/p", Fault::QemuOptions, Some("unix:/p")),
        (
            "spice://h:1,disable-ticketing=on",
            Fault::QemuOptions,
            Some("spice://h:1"),
        ),
    ]);
}

#[test]
fn texts_that_are_not_spice_servers() {
    use AddressFault as Fault;
    check(&[
        ("spice:", Fault::Form, None),
        ("spice://", Fault::NoHost, None),
        ("spice:h:1", Fault::Form, Some("spice://h:1")),
        ("spice://h", Fault::NoPort, None),
        ("spice://h:0", Fault::BadPort, None),
        ("spice://h:port", Fault::BadPort, None),
        ("spice://h?port=0", Fault::BadPort, None),
        ("spice+tls://h?port=1", Fault::NoPort, None),
        ("spice://:1", Fault::NoHost, Some("spice://localhost:1")),
        ("spice://[::1]", Fault::NoPort, None),
        (
            "spice://::1:1",
            Fault::Ipv6Brackets,
            Some("spice://[::1]:1"),
        ),
        ("spice:///p", Fault::NoHost, Some("spice+unix:///p")),
        ("spice://h :1", Fault::Space, Some("spice://h:1")),
        ("spice+unix:/p", Fault::Form, Some("spice+unix:///p")),
        ("spice+unix:p", Fault::Form, Some("spice+unix:///p")),
        ("spice+unix:@p", Fault::Form, None),
        (
            "spice+unix://run/p",
            Fault::RelativePath,
            Some("spice+unix:///run/p"),
        ),
        ("spice+unix:///", Fault::NoPath, None),
    ]);
}

#[test]
fn a_path_that_is_too_long() {
    for (scheme, start) in [
        ("unix:", "/"),
        ("unix:@", "n"),
        ("spice+unix://", "/"),
        ("dbus:address=unix:path=", "/"),
        (
            "dbus:address=unix:guid=00112233445566778899aabbccddeeff,abstract=",
            "n",
        ),
    ] {
        let path = |bytes: usize| format!("{scheme}{start:x<bytes$}");
        assert!(Address::parse(&path(107)).is_ok());
        let error = Address::parse(&path(108)).expect_err("108 bytes");
        assert_eq!(error.fault(), AddressFault::PathTooLong { length: 108 });
        assert!(error.to_string().contains("at most 107"), "{error}");
    }
    // Three characters stand for one byte.
    let path = format!("dbus:address=unix:path=/{}", "%20".repeat(107));
    let error = Address::parse(&path).expect_err("108 bytes");
    assert_eq!(error.fault(), AddressFault::PathTooLong { length: 108 });
    // Bytes, not characters.
    let path = format!("unix:/{}", "ä".repeat(54));
    assert!(Address::parse(&path).is_err());
}

#[test]
fn a_password_is_refused_and_not_repeated() {
    for text in [
        "spice://host:5900?password=geheim",
        "spice://host?port=5900&Password=geheim",
        "spice://me:geheim@host:5900",
        " spice://me:geheim@host:5900",
        "tcp://me:geheim@host:5900",
        "http://me:geheim@host:5900",
    ] {
        let error = Address::parse(text).expect_err(text);
        assert_eq!(error.fault(), AddressFault::Password);
        assert!(!format!("{error:?} {error}").contains("geheim"));
    }
}
