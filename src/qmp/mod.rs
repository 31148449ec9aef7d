// SPDX-License-Identifier: MIT OR Apache-2.0
//! The QEMU Machine Protocol without I/O: bytes in, bytes out, messages out.
//!
//! [`Session`] is the client's end of a QMP connection, and [`Server`] the server's. They
//! never block, know no clock and no socket, and call none of the caller's code. The rules
//! are those of QEMU's `docs/interop/qmp-spec` ("QEMU Machine Protocol Specification").
//!
//! ```
//! use spice_qmp::qmp::{Band, Opening, Output, Session, State};
//!
//! let mut session = Session::new(1 << 24);
//! session.open(Opening::GreetingComes);
//!
//! let mut input: &[u8] = br#"{"QMP":{"version":{"qemu":{"major":10,"minor":0,"micro":2},"package":""},"capabilities":[]}}
//! {"return":{},"id":16777216}
//! "#;
//! while session.receive(&mut input).is_some() {}
//! assert_eq!(session.state(), State::Ready);
//! assert_eq!(session.poll_transmit().unwrap(), b"{\"execute\":\"qmp_capabilities\",\"id\":16777216}\n");
//!
//! session.execute("query-status", None, Band::In, "my token");
//! assert_eq!(session.poll_transmit().unwrap(), b"{\"execute\":\"query-status\",\"id\":16777217}\n");
//!
//! let mut input: &[u8] = b"{\"return\":{\"running\":true,\"status\":\"running\"},\"id\":16777217}\n";
//! let Some(Output::Ended { token, result }) = session.receive(&mut input) else { panic!() };
//! assert_eq!(token, "my token");
//! assert_eq!(result.unwrap(), r#"{"running":true,"status":"running"}"#);
//! ```

#![expect(
    clippy::inline_always,
    reason = "a message moved between functions waits for its own stores: a tenth of the time"
)]

mod calls;
mod core;
mod error;
mod framing;
mod greeting;
mod json;
pub mod limits;
mod message;
mod output;
mod pages;
mod port_name;
mod redact;
mod request;
mod secret;
mod server;
mod session;
mod state;
mod strings;
#[cfg(feature = "gobject")]
pub(crate) mod tree;

pub use calls::CallId;
#[cfg(feature = "gobject")]
pub(crate) use error::misfit;
pub use error::{ConnectError, Error, ErrorClass, Origin, PeerError, UsageError};
pub use greeting::{Greeting, Version, VersionTriple};
pub use message::{Event, Failure, Message, parse};
pub use output::{Ignored, Opening, Output};
pub use port_name::{is_human_monitor_name, is_qmp_port_name};
pub use redact::{redacted, redacted_payload};
pub use request::Band;
pub use server::{Request, RequestId, Server};
pub use session::Session;
pub use state::State;
#[cfg(feature = "gobject")]
pub(crate) use strings::for_c;
