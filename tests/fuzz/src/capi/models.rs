// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lists of the program's machine, and the functions of their items.

use std::ffi::c_uint;
use std::ptr::null;

use gio::prelude::*;
use glib::ffi::gpointer;
use glib::gobject_ffi::GObject;
use glib::object::ObjectType;
use glib::translate::{IntoGlib, from_glib_full, from_glib_none};
use spice_qmp::List;
use spice_qmp_1::drive::{spice_qmp_drive_eject_async, spice_qmp_drive_insert_async};
use spice_qmp_1::insert_flags::InsertFlagsOfC;
use spice_qmp_1::job::{SpiceQmpJob, spice_qmp_job_cancel_async};
use spice_qmp_1::list::{
    SpiceQmpList, spice_qmp_list_dup_error, spice_qmp_list_get_loading, spice_qmp_list_refresh,
};
use spice_qmp_1::machine::{
    SpiceQmpMachine, spice_qmp_machine_get_drives, spice_qmp_machine_get_jobs,
    spice_qmp_machine_run_job_async,
};
use spice_qmp_1::machine_snapshots::spice_qmp_machine_get_snapshots;

use super::calls::{Caller, Function, string};
use super::machine::told_change;
use super::{World, current};
use crate::operations::{pick, two_strings};

type Get = unsafe extern "C" fn(*mut SpiceQmpMachine) -> *mut SpiceQmpList;

const LISTS: [Get; 3] = [
    spice_qmp_machine_get_drives,
    spice_qmp_machine_get_jobs,
    spice_qmp_machine_get_snapshots,
];

impl World {
    /// Connects handlers to the lists.
    pub(super) fn connect_lists(&self) {
        for get in LISTS {
            let Some(list) = self.list(get) else {
                return;
            };
            list.connect_loading_notify(|_| told_change());
            list.connect_items_changed(|list, at, removed, added| {
                assert!(removed + added > 0 && at + added <= list.n_items());
                told_change();
            });
        }
    }

    fn list(&self, get: Get) -> Option<List> {
        let machine = self.machine.get();
        // SAFETY: the program has a reference to the machine, which has one to the list.
        (!machine.is_null()).then(|| unsafe {
            from_glib_none(get(machine).cast::<<List as ObjectType>::GlibType>())
        })
    }

    /// Asks a list for its items, and reads them; or makes it load them again.
    pub(super) fn look_at_list(&self, with: &[u8]) {
        let Some(list) = self.list(LISTS[pick(with, 3)]) else {
            return;
        };
        let instance = list.as_ptr().cast::<SpiceQmpList>();
        // SAFETY: `list` keeps it, and the error is the caller's.
        unsafe {
            if pick(with, 6) > 2 {
                spice_qmp_list_refresh(instance);
            }
            let error = spice_qmp_list_dup_error(instance);
            if !error.is_null() {
                let error: glib::Error = from_glib_full(error);
                assert!(!error.message().is_empty());
            }
        }
        for at in 0..list.n_items() {
            // A handler may have removed it.
            let Some(item) = list.item(at) else { break };
            assert!(item.type_().is_a(list.item_type()));
            for property in item.list_properties() {
                let value = item.property_value(property.name());
                assert!(value.type_().is_a(property.value_type()));
            }
        }
    }

    /// An item of the list that a function is for.
    pub(super) fn item(&self, function: Function, with: &[u8]) -> Option<glib::Object> {
        let get = match function {
            Function::Insert | Function::Eject => spice_qmp_machine_get_drives,
            Function::CancelJob => spice_qmp_machine_get_jobs,
            _ => unreachable!("{function:?} is of no item"),
        };
        let list = self.list(get)?;
        let count = usize::try_from(list.n_items()).expect("there are not so many");
        let at = (count > 0).then(|| pick(with, count))?;
        list.item(at.try_into().expect("there are not so many"))
    }

    /// Nothing is loading while nothing can arrive.
    pub(super) fn check_lists(&self) {
        for list in LISTS.iter().filter_map(|&get| self.list(get)) {
            // SAFETY: `list` keeps it.
            let loading = unsafe { spice_qmp_list_get_loading(list.as_ptr().cast()) };
            assert_eq!(loading, glib::ffi::GFALSE, "a list loads for ever");
        }
    }
}

/// Calls a function of an item.
///
/// # Safety
///
/// The item is one that the function is for; and as of `call_port`.
pub(super) unsafe fn call_item(
    function: Function,
    item: *mut GObject,
    with: &[u8],
    caller: Caller,
) {
    let Caller {
        cancellable,
        callback,
        data,
    } = caller;
    // SAFETY: as the caller promises, and the strings live, or are NULL.
    unsafe {
        match function {
            Function::Insert => {
                let (file, format) = two_strings(with.get(1..).unwrap_or_default());
                let (file, format) = (
                    string(file.as_bytes()),
                    format.map(|it| string(it.as_bytes())),
                );
                spice_qmp_drive_insert_async(
                    item.cast(),
                    file.as_ptr(),
                    format.as_ref().map_or(null(), |it| it.as_ptr()),
                    insert_flags(with),
                    cancellable,
                    callback,
                    data,
                );
            }
            Function::Eject => {
                let force = (pick(with, 2) == 1).into_glib();
                spice_qmp_drive_eject_async(item.cast(), force, cancellable, callback, data);
            }
            Function::CancelJob => {
                spice_qmp_job_cancel_async(item.cast(), cancellable, callback, data);
            }
            _ => unreachable!("{function:?} is of no item"),
        }
    }
}

/// Runs a job with handlers.
///
/// # Safety
///
/// As of `call_port`.
pub(super) unsafe fn run_job(machine: *mut SpiceQmpMachine, with: &[u8], caller: Caller) {
    let (command, arguments) = two_strings(with);
    let command = string(command.as_bytes());
    let arguments = arguments.map(|text| string(text.as_bytes()));
    let world = current();
    world.jobs.set(world.jobs.get() + 1);
    // SAFETY: as the caller promises, and the strings live, or are NULL; the functions take
    // any data.
    unsafe {
        spice_qmp_machine_run_job_async(
            machine,
            command.as_ptr(),
            arguments.as_ref().map_or(null(), |text| text.as_ptr()),
            Some(on_progress),
            JOB,
            Some(job_has_ended),
            caller.cancellable,
            caller.callback,
            caller.data,
        );
    }
}

const JOB: gpointer = std::ptr::without_provenance_mut(7);

unsafe extern "C" fn on_progress(job: *mut SpiceQmpJob, data: gpointer) {
    assert!(!job.is_null() && data == JOB);
    told_change();
}

unsafe extern "C" fn job_has_ended(data: gpointer) {
    assert_eq!(data, JOB);
    let world = current();
    let left = world.jobs.get().checked_sub(1);
    world.jobs.set(left.expect("each ends once"));
}

/// Contradicting flags are a mistake of the program.
fn insert_flags(with: &[u8]) -> InsertFlagsOfC {
    let flags: c_uint = [0, 1, 2, 4, 5, 6][pick(with, 6)];
    // SAFETY: it is a number, and nothing else is in it.
    unsafe { std::mem::transmute::<c_uint, InsertFlagsOfC>(flags) }
}

#[cfg(test)]
mod tests {
    use super::super::calls::Of;
    use super::super::tests::{answer, with_world};

    #[test]
    fn lists_load_and_calls_of_their_items_come_back() {
        with_world(2 | 32, |world| {
            let running = r#"{"status": "running", "running": true}"#;
            answer(world, &["{}", running]);
            world.take(b'g', b"0");
            world.take(b'g', b"1");
            let drives = r#"[{"device": "", "qdev": "d", "removable": true, "locked": false}]"#;
            let jobs = r#"[{"id": "j", "type": "backup", "status": "running", "current-progress": 1, "total-progress": 4}]"#;
            answer(world, &[drives, jobs]);
            world.take(b'g', b"0");
            world.take(b'I', b"--3/a.iso\0raw");
            world.take(b'T', b"--1");
            world.take(b'K', b"--0");
            world.take(b'j', b"--blockdev-backup\0{\"job-id\": \"k\"}");
            world.take(b'S', b"--s");
            let made: Vec<_> = world
                .calls
                .borrow()
                .iter()
                .map(|it| it.function.object())
                .collect();
            let expected = [Of::Item, Of::Item, Of::Item, Of::Machine, Of::Machine];
            assert_eq!((&made[..], world.jobs.get()), (&expected[..], 1));
            world.take(b'x', b"");
            world.take(b'i', b"");
            let ends: Vec<u32> = world.calls.borrow().iter().map(|call| call.ends).collect();
            assert_eq!((ends, world.jobs.get()), (vec![1; 5], 0));
        });
    }
}
