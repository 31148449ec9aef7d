// SPDX-License-Identifier: MIT OR Apache-2.0
//! Limits on what a hostile or broken peer can make this library spend.

/// A peer that never ends its line would make the receive buffer grow without
/// bound. A longer message, in bytes, is skipped in constant memory and
/// fails the calls in flight with [`PeerError::TooLarge`]. QEMU itself refuses
/// to parse more than 64 MiB of tokens.
///
/// [`PeerError::TooLarge`]: super::PeerError::TooLarge
pub const MAX_MESSAGE_SIZE: usize = 64 << 20;

/// A peer that nests arrays would overflow the stack of a recursive parser of
/// the payload. QEMU's own parser stops at the same depth.
pub const MAX_DEPTH: usize = 1024;

/// A peer that does not speak QMP would be served for ever. After
/// this many consecutive lines that are not QMP the session fails.
pub const MAX_BAD_LINES: u32 = 16;

/// With `oob` enabled, QEMU stops reading its input when more than eight in-band
/// commands wait (QMP specification, section "Out-of-band execution"); an
/// out-of-band command behind them would wait too. The session holds further
/// commands back.
pub const MAX_IN_FLIGHT: usize = 8;

/// A peer that never answers would make abandoned calls (cancelled, or past
/// their deadline) pile up: they are remembered so that their replies, which come
/// in order, can be recognised. This many are remembered per band, then the
/// oldest is forgotten. Ids are never reused: a late reply matches no call and is
/// ignored.
pub const MAX_ABANDONED: usize = 1024;

/// A SPICE port cannot be paused: a peer that keeps sending while a signal handler
/// runs a nested main loop would fill the memory. When more bytes
/// than this wait to be delivered, the session fails.
pub const MAX_BUFFERED: usize = 64 << 20;

/// A peer that offers capabilities without end would fill the memory with their names:
/// 60 MiB of `"",` took 670 MB. This many are kept, and the rest is skipped.
pub const MAX_CAPABILITIES: usize = 64;

/// The same with one endless name: a capability with a longer name, in bytes, is skipped.
/// The class of an error, which may be endless too, is cut at this length.
pub const MAX_NAME: usize = 256;

/// A peer that sends an endless version would have it kept for as long as the
/// connection lasts: the package is cut after this many bytes.
pub const MAX_PACKAGE: usize = 1024;

/// A peer whose errors are endless would fill the memory of whatever keeps them, such
/// as the property `last-error`: the text of a refused command is cut after this many
/// bytes, once the command's secrets have been hidden in it.
pub const MAX_ERROR_TEXT: usize = 64 << 10;

/// The text of a refused negotiation is kept with the session and repeated in the error of
/// every later call: it is cut after this many bytes.
pub const MAX_REFUSAL: usize = 1024;

/// What a peer sends in place of a greeting is shown in the error, to help find out what
/// it is: this many bytes of it.
pub const MAX_SHOWN: usize = 40;

/// A tree costs far more than its text: 40 bytes for each byte of `[0,0,0,...]`, and
/// seconds of the main loop for 60 MiB of it. No tree, whether of `GVariant`s or of
/// `JsonNode`s, is built from more JSON text than this; text itself has no such limit.
pub const MAX_TREE_SIZE: usize = 1 << 20;

/// A client that sends commands and does not read the replies would fill a server's
/// memory with them: one invalid byte has an error of 90 bytes. While the client leaves
/// more than this many bytes unread, its requests wait, as they do while
/// [`MAX_IN_FLIGHT`] of them are not answered.
pub const MAX_BACKLOG: usize = 64 << 10;

/// Events cannot be held back: they would fill the memory of a server whose client
/// does not read. When another message comes while this many bytes are unread, the client
/// is given up. A message itself may have any length.
pub const MAX_UNREAD: usize = 16 << 20;

/// How much the receive buffer may keep allocated once a message is consumed.
pub(super) const KEPT_BUFFER: usize = 64 << 10;
