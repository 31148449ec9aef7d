// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tool over TLS: certificates of a private CA, and each way they can be wrong.
#![cfg(all(feature = "cli", feature = "spice"))]

mod common;
#[allow(dead_code, unreachable_pub, reason = "shared with other tests")]
#[path = "common/tool.rs"]
mod tool;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::qemu::{Config, Program, Qemu};
use tool::{Ended, Tool};

const PASSWORD: &str = "geheim";

/// The folder of a CA, and of the server's certificate that it signed.
struct Pki(tempfile::TempDir);

impl Pki {
    /// A certificate for `localhost` that is valid for this many days from now.
    fn new(days: u32) -> Self {
        let pki = Self(tempfile::tempdir_in("/tmp").unwrap());
        let days = days.to_string();
        pki.openssl("req -new -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca-key.pem -out ca-cert.pem -subj /CN=a-ca");
        pki.openssl("req -new -newkey rsa:2048 -nodes -keyout server-key.pem -out request -subj /O=Example/CN=localhost");
        pki.openssl(&format!("x509 -req -in request -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days {days} -out server-cert.pem"));
        pki
    }

    fn openssl(&self, args: &str) {
        let output = Command::new("openssl")
            .args(args.split(' '))
            .current_dir(self.0.path())
            .output()
            .expect("openssl does not run: apt-get install openssl");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn ca(&self) -> String {
        self.file("ca-cert.pem").display().to_string()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A QEMU with a port for TLS beside the one without.
struct Server {
    qemu: Qemu,
    tls_port: u16,
}

impl Server {
    fn start(program: &Program, pki: &Pki, options: &str) -> Self {
        // Another process may take the port before QEMU does.
        let mut left = 5;
        loop {
            let tls_port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let folder = pki.0.path().display();
            let config = Config::new()
                .spice_tcp_password(PASSWORD)
                .arg("-spice")
                .arg(format!("tls-port={tls_port},x509-dir={folder}{options}"));
            left -= 1;
            let start = std::panic::AssertUnwindSafe(|| config.start(program));
            match std::panic::catch_unwind(start) {
                Ok(qemu) => return Self { qemu, tls_port },
                Err(panic) if left == 0 => std::panic::resume_unwind(panic),
                Err(_) => {}
            }
        }
    }

    fn tls(&self, host: &str) -> String {
        format!("spice+tls://{host}:{}", self.tls_port)
    }

    fn plain_port(&self) -> String {
        let uri = self.qemu.spice_uri();
        uri.rsplit_once(':').unwrap().1.to_owned()
    }
}

fn status(address: &str, args: &[&str]) -> Ended {
    let args = [args, &["status"]].concat();
    Tool::new(address, &args)
        .env("SPICE_QMP_PASSWORD", PASSWORD)
        .run()
}

#[test]
fn a_ca_of_ones_own() {
    let pki = Pki::new(2);
    let other = Pki::new(2);
    for program in Program::all() {
        let server = Server::start(&program, &pki, "");
        let address = server.tls("localhost");
        let ca = pki.ca();
        assert!(
            status(&address, &["--ca-file", &ca])
                .ok()
                .contains("prelaunch")
        );
        let both = format!(
            "spice://localhost?port={}&tls-port={}",
            server.plain_port(),
            server.tls_port
        );
        status(&both, &["--ca-file", &ca]).ok();
        let only = format!("spice://localhost?tls-port={}", server.tls_port);
        status(&only, &["--ca-file", &ca]).ok();

        let none = status(&address, &[]);
        none.says(
            3,
            "certificate is not trusted: self-signed",
            "with --ca-file FILE",
        );
        let wrong = status(&address, &["--ca-file", &other.ca()]);
        let hint = format!("{} is not the certificate of the CA", other.ca());
        wrong.says(3, "certificate is not trusted: ", &hint);
    }
}

/// Viewers look there, too.
#[test]
fn the_trust_store_of_spice_gtk() {
    let (pki, other) = (Pki::new(2), Pki::new(2));
    let server = Server::start(&Program::system(), &pki, "");
    let address = server.tls("localhost");
    let home = tempfile::tempdir_in("/tmp").unwrap();
    let store = home.path().join(".spicec/spice_truststore.pem");
    fs::create_dir(store.parent().unwrap()).unwrap();
    let run = |args: &[&str]| {
        let args = [args, &["status"]].concat();
        let tool = Tool::new(&address, &args).env("HOME", home.path());
        tool.env("SPICE_QMP_PASSWORD", PASSWORD).run()
    };
    fs::copy(pki.ca(), &store).unwrap();
    run(&[]).ok();
    fs::copy(other.ca(), &store).unwrap();
    let hint = format!("{} is not the certificate", store.display());
    run(&[]).says(3, "not trusted", &hint);
    run(&["--ca-file", &pki.ca()]).ok();
}

#[test]
fn a_certificate_of_another_host() {
    let pki = Pki::new(2);
    for program in Program::all() {
        let server = Server::start(&program, &pki, "");
        let address = server.tls("127.0.0.1");
        let ca = pki.ca();
        let ended = status(&address, &["--ca-file", &ca]);
        ended.says(
            3,
            "not for the host of spice+tls://127.0.0.1",
            "--host-subject SUBJECT",
        );
        let subject = |subject| status(&address, &["--ca-file", &ca, "--host-subject", subject]);
        subject("O=Example,CN=localhost").ok();
        subject("CN=localhost").says(3, "another subject", "O=Example");
        // The host name does not override it.
        let args = ["--ca-file", &ca, "--host-subject", "CN=other"];
        status(&server.tls("localhost"), &args).says(3, "another subject", "O=Example");
    }
}

#[test]
fn a_certificate_that_has_expired() {
    let pki = Pki::new(0);
    // It is valid in the second that it was made in.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    for program in Program::all() {
        let server = Server::start(&program, &pki, "");
        let ended = status(&server.tls("localhost"), &["--ca-file", &pki.ca()]);
        ended.says(
            3,
            "not valid now: certificate has expired",
            "renew the certificate",
        );
    }
}

#[test]
fn tls_to_a_plain_port_and_plain_to_a_tls_port() {
    let pki = Pki::new(2);
    for program in Program::all() {
        let server = Server::start(&program, &pki, ",tls-channel=default");
        let (plain, tls) = (server.plain_port(), server.tls_port);

        let ended = status(&format!("spice://localhost:{tls}"), &[]);
        ended.says(
            3,
            "does not answer as a SPICE server",
            &format!("spice+tls://localhost:{tls}"),
        );
        let ended = status(&format!("spice+tls://localhost:{plain}"), &[]);
        ended.says(
            3,
            "does not speak TLS there",
            &format!("spice://localhost:{plain}"),
        );
        let ended = status(&format!("spice://localhost:{plain}"), &[]);
        ended.says(3, "the server wants TLS", "spice+tls://host:PORT");
        let both = format!("spice://localhost?port={plain}&tls-port={tls}");
        status(&both, &["--ca-file", &pki.ca()]).ok();
    }
}

#[test]
fn a_login_with_a_user_name() {
    for program in Program::all() {
        let qemu = Config::new()
            .spice_tcp_password(PASSWORD)
            .arg("-spice")
            .arg("sasl=on")
            .start(&program);
        let address = qemu.spice_uri();
        let sasl = "user name and a password that are right (SASL)";
        status(&address, &[]).says(3, sasl, "spice://NAME@host:5900");
        let named = address.replace("//", "//joe@");
        status(&named, &[]).says(3, sasl, "the password from SPICE_QMP_PASSWORD is not");
    }
}

#[test]
fn what_cannot_be_asked_for() {
    let pki = Pki::new(2);
    let address = "spice+tls://localhost:1";
    let ca = |file: &Path| status(address, &["--ca-file", file.to_str().unwrap()]);
    ca(Path::new("/no/such")).says(2, "--ca-file /no/such: No such file", "");
    ca(&pki.file("server-key.pem")).says(2, "no certificate in PEM form", "");
    for option in ["--ca-file", "--host-subject"] {
        status("unix:/p", &[option, "x"]).says(2, "is for SPICE servers", "");
    }
}
