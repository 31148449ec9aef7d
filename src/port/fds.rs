// SPDX-License-Identifier: MIT OR Apache-2.0
//! File descriptors that are sent with a command.

use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};

use gio::prelude::*;

use crate::qmp::{Error, UsageError};
use crate::transport::Fds;

/// How many file descriptors a command can carry: Linux sends no more at once. A call
/// with more of them fails before anything is sent.
pub const MAX_FDS: usize = 253;

/// Duplicates descriptors; returns `None` if there are none.
pub(super) fn duplicate(fds: impl IntoIterator<Item = impl AsFd>) -> Result<Option<Fds>, Error> {
    collect(fds.into_iter().map(|fd| fd.as_fd().try_clone_to_owned()))
}

/// [`duplicate`] of a list, for the C library.
///
/// # Errors
///
/// [`UsageError::InvalidArgument`] for more than [`MAX_FDS`], or if one cannot be
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

#[cfg(test)]
mod tests {
    use std::os::fd::{BorrowedFd, RawFd};

    use rustix::fs::OFlags;

    use super::*;

    #[test]
    fn duplicates_are_not_inherited() {
        let fds = duplicate([std::io::stdin()]).unwrap().unwrap();
        let copies = duplicate_list(&fds).unwrap().unwrap();
        for list in [fds, copies] {
            let [fd] = list.peek_fds()[..] else {
                panic!("one was given");
            };
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = u32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
            assert!(flags & OFlags::CLOEXEC.bits() != 0, "{info}");
        }
    }

    #[test]
    fn one_that_is_not_open_is_refused() {
        let list = Fds::from_array([-1 as RawFd]);
        let error = duplicate_list(&list).unwrap_err();
        // GLib would complain that it cannot be closed.
        list.steal_fds();
        assert!(
            matches!(error, Error::Usage(UsageError::InvalidArgument(_))),
            "{error}"
        );
        assert!(duplicate_list(&Fds::new()).unwrap().is_none());
        assert!(duplicate([] as [BorrowedFd<'_>; 0]).unwrap().is_none());
    }
}
