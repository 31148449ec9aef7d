// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where clients connect: a socket that only the user can reach, or an inherited one.
#![allow(
    unsafe_code,
    reason = "a number on the command line is made a descriptor"
)]

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use gio::prelude::*;
use gio::{IOErrorEnum, SocketFamily, SocketProtocol, SocketType};
use spice_qmp::Address;

use crate::failure::Failure;
use crate::hints;

/// Where clients can connect.
#[derive(Debug)]
pub(super) enum Listen {
    /// A Unix socket with this path, which is created.
    Path(PathBuf),
    /// The descriptor of a socket that the tool inherited.
    Descriptor(RawFd),
}

/// The source of clients.
pub(super) enum Source {
    /// A listening socket: any number of clients.
    Listener {
        listener: gio::SocketListener,
        _own: Option<OwnSocket>,
    },
    /// A connected socket: one client.
    Client(gio::SocketConnection),
}

/// A socket in the file system, which is removed when it is no longer needed.
#[derive(Debug)]
pub(super) struct OwnSocket {
    path: PathBuf,
    /// Device and inode: another program may have replaced it.
    identity: (u64, u64),
}

/// Only the user may connect.
const MODE: u32 = 0o600;

const FORMS: &str = "clients connect to unix:/path, or to the socket that fd:N is";

impl Listen {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        if let Some(number) = text.strip_prefix("fd:") {
            return match number.parse() {
                Ok(number) if number >= 0 => Ok(Self::Descriptor(number)),
                _ => Err(
                    Failure::usage(format!("{text:?} does not name a file descriptor"))
                        .hint("use fd:N, such as fd:3, with the number of a socket"),
                ),
            };
        }
        match Address::parse(text) {
            Ok(Address::Unix(path)) => Ok(Self::Path(PathBuf::from(&*path))),
            Ok(Address::Abstract(_)) => Err(Failure::usage(format!(
                "{text:?} has no permissions: every user could control the machine"
            ))
            .hint("use unix:/path")),
            Ok(_) => {
                Err(Failure::usage(format!("{text:?}: clients cannot connect there")).hint(FORMS))
            }
            Err(error) if text.starts_with("unix:") => Err(hints::wrong_address(text, &error)),
            Err(error) => Err(Failure::usage(error.to_string()).hint(FORMS)),
        }
    }

    /// Starts to accept clients.
    pub(super) fn open(&self) -> Result<Source, Failure> {
        match self {
            Self::Path(path) => listen_at(path).map_err(|error| {
                let failure =
                    Failure::usage(format!("unix:{}: {}", path.display(), error.message()));
                if error.matches(IOErrorEnum::AddressInUse) {
                    failure.hint("another program listens there, or it is not a socket")
                } else {
                    failure
                }
            }),
            Self::Descriptor(number) => {
                inherited(*number).map_err(|error| Failure::usage(format!("fd:{number}: {error}")))
            }
        }
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "unix:{}", path.display()),
            Self::Descriptor(number) => write!(f, "fd:{number}"),
        }
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // It may be gone by now.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Creates a socket that no other user can connect to, at any time.
fn listen_at(path: &Path) -> Result<Source, glib::Error> {
    let socket = bind(path)?;
    // A socket that is bound but does not listen refuses all clients, so this is in time.
    let own = restrict(path).map_err(|error| failed(&error))?;
    socket.listen()?;
    let listener = gio::SocketListener::new();
    listener.add_socket(&socket, None::<&glib::Object>)?;
    Ok(Source::Listener {
        listener,
        _own: Some(own),
    })
}

fn restrict(path: &Path) -> io::Result<OwnSocket> {
    let own = OwnSocket {
        path: path.to_owned(),
        identity: identity(path)?,
    };
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    Ok(own)
}

/// Binds a socket, replacing one that is no longer served.
fn bind(path: &Path) -> Result<gio::Socket, glib::Error> {
    let address = gio::UnixSocketAddress::new(path);
    let mut tries = 3;
    loop {
        let socket = new_socket()?;
        // Linux gives the mode of the descriptor to the file, minus the umask.
        let file = socket.as_fd().try_clone_to_owned().map(File::from);
        let restricted = file.and_then(|it| it.set_permissions(Permissions::from_mode(MODE)));
        restricted.map_err(|error| failed(&error))?;
        match socket.bind(&address, false) {
            Ok(()) => return Ok(socket),
            Err(error) if tries > 0 && error.matches(IOErrorEnum::AddressInUse) => {
                tries -= 1;
                remove_stale(path, &address, error)?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn new_socket() -> Result<gio::Socket, glib::Error> {
    gio::Socket::new(
        SocketFamily::Unix,
        SocketType::Stream,
        SocketProtocol::Default,
    )
}

/// Removes a socket that refuses connections: its creator is gone.
fn remove_stale(
    path: &Path,
    address: &gio::UnixSocketAddress,
    in_use: glib::Error,
) -> Result<(), glib::Error> {
    let before = identity(path);
    let is_socket = fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket());
    let probe = new_socket()?;
    probe.set_blocking(false);
    let refused = SocketExt::connect(&probe, address, gio::Cancellable::NONE);
    let refused = refused.is_err_and(|error| error.matches(IOErrorEnum::ConnectionRefused));
    if is_socket && refused && before.ok() == identity(path).ok() {
        fs::remove_file(path).map_err(|error| failed(&error))
    } else {
        Err(in_use)
    }
}

fn failed(error: &io::Error) -> glib::Error {
    glib::Error::new(IOErrorEnum::Failed, &error.to_string())
}

/// The socket behind a descriptor, which may be listening or connected.
fn inherited(number: RawFd) -> Result<Source, String> {
    let link = fs::read_link(format!("/proc/self/fd/{number}"));
    let link = link.map_err(|_| "there is no such file descriptor".to_owned())?;
    if !link.to_string_lossy().starts_with("socket:") {
        return Err("it is not a socket".into());
    }
    let socket = duplicate(number).and_then(|fd| {
        let socket = gio::Socket::from_fd(fd);
        socket.map_err(|error| io::Error::other(error.message().to_owned()))
    });
    let socket = socket.map_err(|error| error.to_string())?;
    if socket.is_connected() {
        return Ok(Source::Client(
            socket.connection_factory_create_connection(),
        ));
    }
    let listener = gio::SocketListener::new();
    match listener.add_socket(&socket, None::<&glib::Object>) {
        Ok(()) => Ok(Source::Listener {
            listener,
            _own: None,
        }),
        Err(error) => Err(error.message().to_owned()),
    }
}

fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor was just found to be open, and the tool inherited
    // it: nothing else closes it meanwhile.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    borrowed.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn only_the_user_can_reach_the_socket_and_it_is_removed_in_the_end() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let path = dir.path().join("s");
        let listen = Listen::parse(&format!("unix:{}", path.display())).unwrap();
        let open = listen.open().unwrap_or_else(|_| panic!("it opens"));
        assert_eq!(mode(&path), MODE);
        assert!(listen.open().is_err(), "it is in use");
        drop(open);
        assert!(!path.exists());
    }

    #[test]
    fn the_mode_is_right_before_a_client_can_connect() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let path = dir.path().join("s");
        let _socket = bind(&path).unwrap();
        assert_eq!(mode(&path), MODE);
    }

    #[test]
    fn a_socket_that_is_not_served_is_replaced() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let open = listen_at(&path).unwrap_or_else(|_| panic!("it opens"));
        // Another socket in its place is not removed.
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(open);
        assert!(path.exists());
        drop(other);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        assert!(listen_at(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"a file");
    }

    #[test]
    fn other_addresses_are_refused() {
        for text in [
            "unix:@name",
            "tcp:localhost:1",
            "spice://a:1",
            "fd:",
            "fd:-1",
            "fd:x",
            "dbus:",
            "/path",
            "",
        ] {
            assert!(Listen::parse(text).is_err(), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(200));
        assert!(Listen::parse(&long).is_err());
        assert!(Listen::Descriptor(987).open().is_err());
    }
}
