// SPDX-License-Identifier: MIT OR Apache-2.0
//! Explains why a TLS connection to a SPICE server fails, and what to do about it.
//!
//! spice-gtk's errors do not say why; its log does.

use spice_qmp::Address;

use crate::failure::Failure;
use crate::log;
use crate::trust::{Tls, trust_store};

/// What is wrong with the server's certificate.
#[derive(Debug, PartialEq, Eq)]
enum Cause {
    /// It is not signed by a trusted CA; OpenSSL's message.
    Untrusted(String),
    /// It has expired, or is not valid yet; OpenSSL's message.
    Date(String),
    /// It was issued for another host.
    Host,
    /// It has another subject.
    Subject,
    /// Another reason; OpenSSL's message.
    Other(String),
    /// There is none: the server does not speak TLS.
    NoTls,
}

/// The failure of a TLS connection, with the library's message `text`.
pub(crate) fn failure(text: &str, address: &Address, tls: &Tls) -> Failure {
    if text.ends_with("no TLS port") {
        return Failure::connection(format!("cannot connect: {text}"))
            .hint("add the port of -spice tls-port=PORT, as in spice+tls://host:PORT");
    }
    let (message, hint) = describe(&cause(&log::warnings()), address, tls);
    Failure::connection(format!("cannot connect: {text}: {message}")).hint(hint)
}

/// A hint if a server without TLS sent something other than SPICE's first message.
pub(crate) fn link_hint(address: &Address) -> String {
    match address.to_string().strip_prefix("spice://") {
        Some(rest) if !rest.contains('?') => format!(
            "is it the port of -spice port=... ? one of -spice tls-port=... needs spice+tls://{rest}"
        ),
        _ => "are these the ports of -spice port=... and tls-port=... ?".to_owned(),
    }
}

fn describe(cause: &Cause, address: &Address, tls: &Tls) -> (String, String) {
    let authority = "the CA that signed it (ca-cert.pem in the x509-dir of QEMU's -spice)";
    match cause {
        Cause::Untrusted(why) => {
            let hint = match &tls.ca_file {
                None => format!("give the certificate of {authority} with --ca-file FILE"),
                Some(file) if *file == trust_store() => format!(
                    "{} is not the certificate of {authority}; give that with --ca-file FILE",
                    file.display()
                ),
                Some(file) => {
                    format!("{} is not the certificate of {authority}", file.display())
                }
            };
            (
                format!("the server's certificate is not trusted: {why}"),
                hint,
            )
        }
        Cause::Date(why) => (
            format!("the server's certificate is not valid now: {why}"),
            "renew the certificate (server-cert.pem, or ca-cert.pem that signed it), \
             or set the clock"
                .to_owned(),
        ),
        Cause::Host => (
            format!("the server's certificate is not for the host of {address}"),
            "use the name that is in the certificate, or give its subject with \
             --host-subject SUBJECT (openssl x509 -noout -subject -in server-cert.pem)"
                .to_owned(),
        ),
        Cause::Subject => (
            "the server's certificate has another subject than --host-subject says".to_owned(),
            "openssl x509 -noout -subject -in server-cert.pem prints it; \
             write it without spaces around = and after commas, as in C=DE,O=Example,CN=host"
                .to_owned(),
        ),
        Cause::Other(why) => (
            format!("the server's certificate was refused: {why}"),
            "openssl verify -CAfile ca-cert.pem server-cert.pem examines it".to_owned(),
        ),
        Cause::NoTls => {
            let plain = address.to_string();
            let plain = plain
                .strip_prefix("spice+tls://")
                .filter(|rest| !rest.contains('?'));
            let hint = plain.map_or_else(String::new, |rest| {
                format!(" one of -spice port=... needs spice://{rest}")
            });
            (
                "the server does not speak TLS there".to_owned(),
                format!("is it the port of -spice tls-port=... ?{hint}"),
            )
        }
    }
}

/// The cause, from the warnings of the last connection.
fn cause(warnings: &[String]) -> Cause {
    let mut host = false;
    for warning in warnings.iter().rev() {
        if let Some((_, why)) = warning
            .split_once("certificate chain verification: ")
            .or_else(|| warning.split_once("server certificate verification: "))
        {
            return chain(why);
        }
        // It tries the host name first, then the subject.
        if warning.contains("ssl: subject") {
            return Cause::Subject;
        }
        host |= warning.contains("ssl: hostname");
    }
    if host { Cause::Host } else { Cause::NoTls }
}

/// `certificate has expired (num=10:depth0:/CN=...)`: OpenSSL's message and number.
fn chain(why: &str) -> Cause {
    let (text, number) = why.split_once(" (num=").unwrap_or((why, ""));
    let number = number.split(':').next().unwrap_or_default();
    let text = text.to_owned();
    match number {
        "9" | "10" => Cause::Date(text),
        "2" | "7" | "18" | "19" | "20" | "21" | "27" => Cause::Untrusted(text),
        _ => Cause::Other(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_from_messages_of_the_log() {
        let place = "../common/ssl_verify.c:445:openssl_verify: ";
        let connect = "main-1:0: SSL_connect: error:00000001:lib(0)::reason(1)";
        let chain = "Error in certificate chain verification: ";
        let leaf = "Error in server certificate verification: ";
        for (warning, expected) in [
            (
                format!("{leaf}certificate has expired (num=10:depth0:/CN=x)"),
                Cause::Date("certificate has expired".into()),
            ),
            (
                format!("{chain}self-signed certificate (num=18:depth0:/CN=x)"),
                Cause::Untrusted("self-signed certificate".into()),
            ),
            (
                format!("{chain}certificate is not yet valid (num=9:depth1:/CN=x)"),
                Cause::Date("certificate is not yet valid".into()),
            ),
            // Signed by a CA with the name of the trusted one.
            (
                format!("{chain}certificate signature failure (num=7:depth1:/CN=x)"),
                Cause::Untrusted("certificate signature failure".into()),
            ),
            (
                format!("{chain}certificate revoked (num=23:depth0:/CN=x)"),
                Cause::Other("certificate revoked".into()),
            ),
            ("ssl: hostname 'h' verification failed".into(), Cause::Host),
            (
                "ssl: subject 'CN=h' verification failed".into(),
                Cause::Subject,
            ),
            (String::new(), Cause::NoTls),
        ] {
            let warnings = [format!("{place}{warning}"), connect.to_owned()];
            assert_eq!(cause(&warnings), expected, "{warning}");
        }
    }
}
