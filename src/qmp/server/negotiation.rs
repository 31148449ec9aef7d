// SPDX-License-Identifier: MIT OR Apache-2.0
//! Capabilities negotiation: a client's `qmp_capabilities` and QEMU's replies to it.

use std::borrow::Cow;

use crate::qmp::limits::MAX_NAME;
use crate::qmp::{json, strings};

/// The command that negotiates.
pub(super) const COMMAND: &str = "qmp_capabilities";

const OOB: &str = "oob";

/// The reply to any other command before it.
pub(super) const EXPECTED: &str = "Expecting capabilities negotiation with 'qmp_capabilities'";

/// The reply to a second one.
pub(super) const COMPLETE: &str = "Capabilities negotiation is already complete, command ignored";

/// The reply to one out of band.
pub(super) const NOT_OOB: &str = "The command qmp_capabilities does not support OOB";

/// Whether a client enables `oob`. All capabilities that it enables must have been offered.
///
/// # Errors
///
/// QEMU's message about invalid arguments.
pub(super) fn enables_oob(arguments: Option<&str>, offered: &[String]) -> Result<bool, String> {
    let (mut enable, mut other) = (None, None);
    json::check_object(arguments.unwrap_or("{}"), 1, |name, value| {
        match name {
            "enable" => enable = Some(value),
            _ if other.is_none() => other = Some(strings::cut(name.into(), MAX_NAME)),
            _ => {}
        }
        Ok(())
    })?;
    let mut oob = false;
    if let Some(array) = enable {
        let items = json::items(array);
        let items = items.ok_or("Invalid parameter type for 'enable', expected: array")?;
        for (at, item) in items.enumerate() {
            oob |= capability(at, item, offered)? == OOB;
        }
    }
    if let Some(name) = other {
        return Err(format!("Parameter '{name}' is unexpected"));
    }
    if oob && !offered.iter().any(|it| it == OOB) {
        return Err("Capability oob not available".into());
    }
    Ok(oob)
}

/// An item of the array, which must be the name of a capability.
fn capability<'a>(at: usize, item: &'a str, offered: &[String]) -> Result<Cow<'a, str>, String> {
    if !item.starts_with('"') {
        return Err(format!(
            "Invalid parameter type for 'enable[{at}]', expected: string"
        ));
    }
    let name = strings::unquoted(item);
    // QEMU knows `oob`, offered or not.
    if name == OOB || offered.iter().any(|it| *it == name) {
        return Ok(name);
    }
    let name = strings::cut(name, MAX_NAME);
    // QEMU 7.2 and 10.0 really say `null` here.
    Err(format!("Parameter 'null' does not accept value '{name}'"))
}

#[cfg(test)]
mod tests {
    use super::enables_oob;

    #[test]
    fn capabilities_are_enabled_as_by_qemu() {
        let offered = ["oob".to_owned(), "x".to_owned()];
        for (arguments, oob) in [
            (None, false),
            (Some("{}"), false),
            (Some(r#"{"enable":[]}"#), false),
            (Some(r#"{"enable":["x"]}"#), false),
            (Some(r#"{"enable":["x","o\u006fb","oob"]}"#), true),
        ] {
            assert_eq!(enables_oob(arguments, &offered), Ok(oob));
        }
        for (arguments, why) in [
            (r#"{"enable":["oob"]}"#, "Capability oob not available"),
            (
                r#"{"enable":["x"],"z":1}"#,
                "Parameter 'null' does not accept value 'x'",
            ),
            (
                r#"{"z":1,"y":1,"enable":[]}"#,
                "Parameter 'z' is unexpected",
            ),
            (
                r#"{"enable":["oob",1]}"#,
                "Invalid parameter type for 'enable[1]', expected: string",
            ),
            (
                r#"{"enable":"oob"}"#,
                "Invalid parameter type for 'enable', expected: array",
            ),
        ] {
            assert_eq!(enables_oob(Some(arguments), &[]).unwrap_err(), why);
        }
    }
}
