//! File descriptors that go with a command.

use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};

use gio::prelude::*;

use crate::qmp::{Error, UsageError};
use crate::transport::Fds;

/// So many file descriptors can go with a command: Linux sends no more at once. A call
/// with more of them fails before anything is sent.
pub const MAX_FDS: usize = 253;

/// Duplicates descriptors; none where there are none.
pub(super) fn duplicate(fds: impl IntoIterator<Item = impl AsFd>) -> Result<Option<Fds>, Error> {
    collect(fds.into_iter().map(|fd| fd.as_fd().try_clone_to_owned()))
}

/// [`duplicate`] of a list, for the C library.
///
/// # Errors
///
/// [`UsageError::InvalidArgument`] for more than [`MAX_FDS`], or where one cannot be
/// duplicated.
#[doc(hidden)]
pub fn duplicate_list(fds: &Fds) -> Result<Option<Fds>, Error> {
    collect((0..fds.length()).map(|at| fds.get(at)))
}

fn collect<E: Display>(
    fds: impl Iterator<Item = Result<OwnedFd, E>>,
) -> Result<Option<Fds>, Error> {
    let mut all = Vec::new();
    for fd in fds {
        if all.len() == MAX_FDS {
            return refused(&format!("more than {MAX_FDS} of them"));
        }
        match fd {
            Ok(fd) => all.push(fd),
            Err(error) => return refused(&error),
        }
    }
    Ok((!all.is_empty()).then(|| Fds::from_array(all)))
}

fn refused(why: &dyn Display) -> Result<Option<Fds>, Error> {
    let text = format!("file descriptors: {why}");
    Err(UsageError::InvalidArgument(text.into()).into())
}
