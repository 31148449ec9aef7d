// SPDX-License-Identifier: MIT OR Apache-2.0
//! The asynchronous functions: how each is called, and how it must end.

use std::ffi::{CString, c_char, c_int, c_uint};
use std::fs::File;
use std::ptr::{null, null_mut};

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable, GUnixFDList};
use glib::ffi::{GError, GFALSE, gboolean, gpointer};
use glib::gobject_ffi::GObject;
use glib::translate::{ToGlibPtr, from_glib_full};
use serde_json::value::RawValue;
use spice_qmp::json_to_variant;
use spice_qmp_1::call_flags::FlagsOfC;
use spice_qmp_1::drive::{spice_qmp_drive_eject_finish, spice_qmp_drive_insert_finish};
use spice_qmp_1::event::{SpiceQmpEvent, spice_qmp_event_get_name, spice_qmp_event_unref};
use spice_qmp_1::instance::SpiceQmpPort;
use spice_qmp_1::job::spice_qmp_job_cancel_finish;
use spice_qmp_1::machine::{
    SpiceQmpMachine, spice_qmp_machine_load_schema_async, spice_qmp_machine_load_schema_finish,
    spice_qmp_machine_run_job_finish, spice_qmp_machine_screenshot_async,
    spice_qmp_machine_screenshot_finish, spice_qmp_machine_unplug_async,
    spice_qmp_machine_unplug_finish,
};
use spice_qmp_1::machine_snapshots::{
    spice_qmp_machine_delete_snapshot_async, spice_qmp_machine_delete_snapshot_finish,
    spice_qmp_machine_load_snapshot_async, spice_qmp_machine_load_snapshot_finish,
    spice_qmp_machine_save_snapshot_async, spice_qmp_machine_save_snapshot_finish,
};
use spice_qmp_1::port::{
    spice_qmp_port_close_async, spice_qmp_port_close_finish, spice_qmp_port_open_async,
    spice_qmp_port_open_finish, spice_qmp_port_wait_ready_async, spice_qmp_port_wait_ready_finish,
};
use spice_qmp_1::port_calls::{
    spice_qmp_port_execute_async, spice_qmp_port_execute_finish, spice_qmp_port_execute_full_async,
    spice_qmp_port_execute_full_finish, spice_qmp_port_execute_oob_async,
    spice_qmp_port_execute_oob_finish, spice_qmp_port_execute_variant_async,
    spice_qmp_port_execute_variant_finish, spice_qmp_port_query_status_async,
    spice_qmp_port_query_status_finish, spice_qmp_port_vm_action_async,
    spice_qmp_port_vm_action_finish,
};
use spice_qmp_1::port_waits::{
    spice_qmp_port_wait_event_async, spice_qmp_port_wait_event_finish,
    spice_qmp_port_wait_ready_full_async, spice_qmp_port_wait_ready_full_finish,
    spice_qmp_port_wait_status_async, spice_qmp_port_wait_status_finish,
};
use spice_qmp_1::schema::{
    SpiceQmpSchema, spice_qmp_schema_has_argument, spice_qmp_schema_has_command,
    spice_qmp_schema_list_commands, spice_qmp_schema_ref, spice_qmp_schema_unref,
};
use spice_qmp_1::status::{spice_qmp_status_ref, spice_qmp_status_unref};
use spice_qmp_1::vm_action::ActionOfC;

use super::models::run_job;
use crate::decode::any_variant;
use crate::operations::{pick, two_strings};

/// The `_async` functions.
#[derive(Debug, Clone, Copy)]
pub(super) enum Function {
    Execute,
    ExecuteOob,
    ExecuteVariant,
    ExecuteFull,
    QueryStatus,
    VmAction,
    WaitReady,
    WaitReadyFull,
    WaitEvent,
    WaitStatus,
    Close,
    Open,
    Unplug,
    LoadSchema,
    Screenshot,
    RunJob,
    SaveSnapshot,
    LoadSnapshot,
    DeleteSnapshot,
    Insert,
    Eject,
    CancelJob,
}

/// The class that a function belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Port,
    Machine,
    /// An item of one of the machine's lists.
    Item,
}

impl Function {
    pub(super) fn of(letter: u8) -> Option<Self> {
        Some(match letter {
            b'e' => Self::Execute,
            b'u' => Self::ExecuteOob,
            b'v' => Self::ExecuteVariant,
            b'f' => Self::ExecuteFull,
            b'q' => Self::QueryStatus,
            b'a' => Self::VmAction,
            b'w' => Self::WaitReady,
            b'F' => Self::WaitReadyFull,
            b'E' => Self::WaitEvent,
            b's' => Self::WaitStatus,
            b'X' => Self::Close,
            b'A' => Self::Open,
            b'U' => Self::Unplug,
            b'l' => Self::LoadSchema,
            b'p' => Self::Screenshot,
            b'j' => Self::RunJob,
            b'S' => Self::SaveSnapshot,
            b'L' => Self::LoadSnapshot,
            b'D' => Self::DeleteSnapshot,
            b'I' => Self::Insert,
            b'T' => Self::Eject,
            b'K' => Self::CancelJob,
            _ => return None,
        })
    }

    pub(super) fn object(self) -> Of {
        match self {
            Self::Unplug
            | Self::LoadSchema
            | Self::Screenshot
            | Self::RunJob
            | Self::SaveSnapshot
            | Self::LoadSnapshot
            | Self::DeleteSnapshot => Of::Machine,
            Self::Insert | Self::Eject | Self::CancelJob => Of::Item,
            _ => Of::Port,
        }
    }
}

/// The last three arguments.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    pub(super) cancellable: *mut GCancellable,
    pub(super) callback: GAsyncReadyCallback,
    pub(super) data: gpointer,
}

/// Calls a function of a port.
///
/// # Safety
///
/// The port and the cancellable live, or that is NULL; the callback takes the data.
pub(super) unsafe fn call_port(
    function: Function,
    port: *mut SpiceQmpPort,
    with: &[u8],
    caller: Caller,
) {
    let Caller {
        cancellable,
        callback,
        data,
    } = caller;
    let (options, names) = with.split_at(with.len().min(1));
    let names = Names::of(names);
    let (command, arguments) = two_strings(match function {
        Function::ExecuteFull => with.get(1..).unwrap_or_default(),
        _ => with,
    });
    let command = string(command.as_bytes());
    let variant = arguments
        .as_deref()
        .and_then(|text| json_to_variant(text).ok());
    let variant = variant.or_else(|| Some(any_variant(with.strip_prefix(b"query-block\0")?)));
    let arguments = arguments.map(|text| string(text.as_bytes()));
    let arguments = arguments.as_ref().map_or(null(), |text| text.as_ptr());
    // SAFETY: as the caller promises, and the strings and lists live, or are NULL where they
    // may be.
    unsafe {
        match function {
            Function::Execute => spice_qmp_port_execute_async(
                port,
                command.as_ptr(),
                arguments,
                cancellable,
                callback,
                data,
            ),
            Function::ExecuteOob => spice_qmp_port_execute_oob_async(
                port,
                command.as_ptr(),
                arguments,
                cancellable,
                callback,
                data,
            ),
            Function::ExecuteVariant => spice_qmp_port_execute_variant_async(
                port,
                command.as_ptr(),
                variant.to_glib_none().0,
                cancellable,
                callback,
                data,
            ),
            Function::ExecuteFull => {
                let fds = fds(pick(options, 18) / 6);
                let fds: *mut GUnixFDList = fds.to_glib_none().0;
                spice_qmp_port_execute_full_async(
                    port,
                    command.as_ptr(),
                    arguments,
                    timeout(options),
                    fds,
                    flags(pick(options, 18) % 2),
                    cancellable,
                    callback,
                    data,
                );
            }
            Function::QueryStatus => {
                spice_qmp_port_query_status_async(port, cancellable, callback, data);
            }
            Function::VmAction => {
                spice_qmp_port_vm_action_async(port, action(with), cancellable, callback, data);
            }
            Function::WaitReady => {
                spice_qmp_port_wait_ready_async(port, cancellable, callback, data);
            }
            Function::WaitReadyFull => {
                let timeout = timeout(options);
                spice_qmp_port_wait_ready_full_async(port, timeout, cancellable, callback, data);
            }
            Function::WaitEvent => spice_qmp_port_wait_event_async(
                port,
                names.or_null(),
                timeout(options),
                cancellable,
                callback,
                data,
            ),
            Function::WaitStatus => spice_qmp_port_wait_status_async(
                port,
                names.pointers.as_ptr(),
                timeout(options),
                cancellable,
                callback,
                data,
            ),
            Function::Close => spice_qmp_port_close_async(port, cancellable, callback, data),
            // No address of a peer's reaches the network.
            Function::Open => {
                spice_qmp_port_open_async(c"nowhere".as_ptr(), cancellable, callback, data);
            }
            _ => unreachable!("{function:?} is of no port"),
        }
    }
}

/// Calls a function of a machine.
///
/// # Safety
///
/// As of [`call_port`].
pub(super) unsafe fn call_machine(
    function: Function,
    machine: *mut SpiceQmpMachine,
    with: &[u8],
    caller: Caller,
) {
    let Caller {
        cancellable,
        callback,
        data,
    } = caller;
    let name = string(with.get(1..).unwrap_or_default());
    let tag = string(with);
    // SAFETY: as the caller promises, and the string lives, or is NULL.
    unsafe {
        match function {
            Function::Unplug => spice_qmp_machine_unplug_async(
                machine,
                name.as_ptr(),
                timeout(with),
                cancellable,
                callback,
                data,
            ),
            Function::LoadSchema => {
                spice_qmp_machine_load_schema_async(machine, cancellable, callback, data);
            }
            Function::Screenshot => {
                let head = pick(with, 2);
                let device = if name.is_empty() {
                    null()
                } else {
                    name.as_ptr()
                };
                spice_qmp_machine_screenshot_async(
                    machine,
                    device,
                    c_uint::from(head == 1),
                    cancellable,
                    callback,
                    data,
                );
            }
            Function::RunJob => run_job(machine, with, caller),
            Function::SaveSnapshot => spice_qmp_machine_save_snapshot_async(
                machine,
                tag.as_ptr(),
                cancellable,
                callback,
                data,
            ),
            Function::LoadSnapshot => spice_qmp_machine_load_snapshot_async(
                machine,
                tag.as_ptr(),
                cancellable,
                callback,
                data,
            ),
            Function::DeleteSnapshot => spice_qmp_machine_delete_snapshot_async(
                machine,
                tag.as_ptr(),
                cancellable,
                callback,
                data,
            ),
            _ => unreachable!("{function:?} is of no machine"),
        }
    }
}

/// None that ends while an input is played: the result would be random.
fn timeout(options: &[u8]) -> c_uint {
    [0, 3_600_000, c_uint::MAX][pick(options, 18) / 2 % 3]
}

fn flags(bits: usize) -> FlagsOfC {
    let bits = c_uint::try_from(bits).expect("a small number");
    // SAFETY: it is a number, and nothing else is in it.
    unsafe { std::mem::transmute::<c_uint, FlagsOfC>(bits) }
}

/// No list of descriptors, an empty one, or one with a descriptor.
fn fds(count: usize) -> Option<gio::UnixFDList> {
    match count {
        0 => None,
        1 => Some(gio::UnixFDList::new()),
        _ => {
            let file = File::open("/dev/null").expect("every system has it");
            Some(gio::UnixFDList::from_array([file]))
        }
    }
}

fn action(with: &[u8]) -> ActionOfC {
    let action = c_int::try_from(pick(with, 5)).expect("a small number");
    // SAFETY: it is a number, and nothing else is in it.
    unsafe { std::mem::transmute::<c_int, ActionOfC>(action) }
}

/// A list of strings as C has it, from one with commas.
struct Names {
    pointers: Vec<*const c_char>,
    /// The strings that are pointed to.
    strings: Vec<CString>,
}

impl Names {
    fn of(with: &[u8]) -> Self {
        let strings: Vec<_> = with.split(|&byte| byte == b',').map(string).collect();
        let pointers = strings.iter().map(|it| it.as_ptr());
        let pointers = pointers.chain([null()]).collect();
        Self { pointers, strings }
    }

    /// NULL for one empty name.
    fn or_null(&self) -> *const *const c_char {
        match &self.strings[..] {
            [only] if only.is_empty() => null(),
            _ => self.pointers.as_ptr(),
        }
    }
}

pub(super) fn string(bytes: &[u8]) -> CString {
    // Bytes that are not text are a mistake of the program.
    let text = String::from_utf8_lossy(bytes).replace('\0', "");
    CString::new(text).expect("no NUL")
}

/// Takes the result with the matching function: there is either a result or
/// an error.
pub(super) fn finish(function: Function, source: *mut GObject, result: *mut GAsyncResult) {
    let (port, machine) = (source.cast(), source.cast());
    let mut error: *mut GError = null_mut();
    let place = &raw mut error;
    // SAFETY: the result is one of this function on this object; the returned value is
    // freed as its documentation says.
    unsafe {
        let worked = match function {
            Function::Execute => text(spice_qmp_port_execute_finish(port, result, place)),
            Function::ExecuteOob => text(spice_qmp_port_execute_oob_finish(port, result, place)),
            Function::ExecuteFull => text(spice_qmp_port_execute_full_finish(port, result, place)),
            Function::ExecuteVariant => {
                let variant = spice_qmp_port_execute_variant_finish(port, result, place);
                if !variant.is_null() {
                    assert_eq!(glib::ffi::g_variant_is_floating(variant), GFALSE);
                    glib::ffi::g_variant_unref(variant);
                }
                !variant.is_null()
            }
            Function::QueryStatus => {
                let status = spice_qmp_port_query_status_finish(port, result, place);
                if !status.is_null() {
                    spice_qmp_status_unref(spice_qmp_status_ref(status));
                    spice_qmp_status_unref(status);
                }
                !status.is_null()
            }
            Function::VmAction => is(spice_qmp_port_vm_action_finish(port, result, place)),
            Function::WaitReady => is(spice_qmp_port_wait_ready_finish(port, result, place)),
            Function::WaitReadyFull => {
                is(spice_qmp_port_wait_ready_full_finish(port, result, place))
            }
            Function::WaitEvent => event(spice_qmp_port_wait_event_finish(port, result, place)),
            Function::WaitStatus => is(spice_qmp_port_wait_status_finish(port, result, place)),
            Function::Close => is(spice_qmp_port_close_finish(port, result, place)),
            Function::Open => !spice_qmp_port_open_finish(result, place).is_null(),
            Function::Unplug => is(spice_qmp_machine_unplug_finish(machine, result, place)),
            Function::LoadSchema => {
                schema(spice_qmp_machine_load_schema_finish(machine, result, place))
            }
            Function::Screenshot => {
                let picture = spice_qmp_machine_screenshot_finish(machine, result, place);
                assert!(picture.is_null(), "no descriptor was sent");
                false
            }
            Function::RunJob => is(spice_qmp_machine_run_job_finish(machine, result, place)),
            Function::SaveSnapshot => is(spice_qmp_machine_save_snapshot_finish(
                machine, result, place,
            )),
            Function::LoadSnapshot => is(spice_qmp_machine_load_snapshot_finish(
                machine, result, place,
            )),
            Function::DeleteSnapshot => is(spice_qmp_machine_delete_snapshot_finish(
                machine, result, place,
            )),
            Function::Insert => is(spice_qmp_drive_insert_finish(source.cast(), result, place)),
            Function::Eject => is(spice_qmp_drive_eject_finish(source.cast(), result, place)),
            Function::CancelJob => is(spice_qmp_job_cancel_finish(source.cast(), result, place)),
        };
        assert_eq!(worked, error.is_null(), "{function:?}");
        if !error.is_null() {
            let error: glib::Error = from_glib_full(error);
            assert!(!error.message().is_empty());
        }
    }
}

pub(super) fn is(worked: gboolean) -> bool {
    worked != GFALSE
}

/// Whether there is a JSON text.
///
/// # Safety
///
/// `text` is the caller's string or NULL.
unsafe fn text(text: *mut c_char) -> bool {
    if text.is_null() {
        return false;
    }
    // SAFETY: as the caller promises.
    let text: glib::GString = unsafe { from_glib_full(text) };
    let json = serde_json::from_str::<&RawValue>(&text);
    json.expect("a reply is JSON");
    true
}

/// Whether there is an event.
///
/// # Safety
///
/// `event` is the caller's reference or NULL.
unsafe fn event(event: *mut SpiceQmpEvent) -> bool {
    if event.is_null() {
        return false;
    }
    // SAFETY: as the caller promises.
    unsafe {
        assert!(!spice_qmp_event_get_name(event).is_null());
        spice_qmp_event_unref(event);
    }
    true
}

/// Whether there is a schema, whose commands must then be listed in order.
///
/// # Safety
///
/// `schema` is the caller's reference or NULL.
unsafe fn schema(schema: *mut SpiceQmpSchema) -> bool {
    if schema.is_null() {
        return false;
    }
    // SAFETY: as the caller promises, and the list is the caller's, too.
    unsafe {
        spice_qmp_schema_unref(spice_qmp_schema_ref(schema));
        let commands = glib::StrV::from_glib_full(spice_qmp_schema_list_commands(schema));
        assert!(commands.is_sorted());
        for command in &commands {
            let command = command.as_ptr();
            assert!(is(spice_qmp_schema_has_command(schema, command)));
            spice_qmp_schema_has_argument(schema, command, c"id".as_ptr());
        }
        spice_qmp_schema_unref(schema);
    }
    true
}
