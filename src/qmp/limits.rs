// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a hostile or broken peer can make this library spend, and where it stops.

/// A peer that never ends its line would make the receive buffer grow without
/// bound. A message over this many bytes is skipped in constant memory and
/// fails the calls in flight with [`PeerError::TooLarge`]. QEMU itself refuses
/// to parse more than 64 MiB of tokens, so this is what it expects of others.
///
/// [`PeerError::TooLarge`]: super::PeerError::TooLarge
pub const MAX_MESSAGE_SIZE: usize = 64 << 20;

/// A peer that nests arrays would overflow the stack of a recursive reader of
/// the payload. QEMU's own parser stops at the same depth.
pub const MAX_DEPTH: usize = 1024;

/// A peer that does not speak QMP would be served for ever. After
/// so many lines in a row that are not QMP the session fails.
pub const MAX_BAD_LINES: u32 = 16;

/// With `oob` enabled QEMU stops reading its input when more than eight in-band
/// commands wait (QMP specification, section "Out-of-band execution"); an
/// out-of-band command behind them would wait too. The session keeps further
/// commands back.
pub const MAX_IN_FLIGHT: usize = 8;

/// A peer that never answers would make calls that were given up (cancelled, or past
/// their deadline) pile up: their places are kept so that the answers, which come
/// in order, are known for theirs. So many are kept of each band, and then the
/// oldest is forgotten. Ids are never used twice: a late reply matches no call and is
/// ignored.
pub const MAX_ABANDONED: usize = 1024;

/// A peer that goes on sending on a SPICE port, which cannot be held back, while a
/// handler of the program's runs a main loop, would fill the memory. When more bytes
/// than this wait to be delivered, the session fails.
pub const MAX_BUFFERED: usize = 64 << 20;

/// A peer that offers capabilities without end would fill the memory with their names:
/// 60 MiB of `"",` made 670 MB of it. So many are kept, and the rest is skipped.
pub const MAX_CAPABILITIES: usize = 64;

/// The same with one endless name: a capability whose name has more bytes is skipped.
/// The class of an error, which has no end either, is cut there.
pub const MAX_NAME: usize = 256;

/// A peer that says too much of its version would have it kept for as long as the
/// connection lasts: the package is cut after so many bytes.
pub const MAX_PACKAGE: usize = 1024;

/// A peer whose errors have no end would fill the memory of those who keep them, such
/// as the property `last-error`: the text of a refused command is cut after so many
/// bytes, after the command's secrets were hidden in it.
pub const MAX_ERROR_TEXT: usize = 64 << 10;

/// The text of a refused negotiation stays with the session and is in the error of
/// every later call: it is cut after so many bytes.
pub const MAX_REFUSAL: usize = 1024;

/// What a peer sends in place of a greeting is shown, so that one sees what is there:
/// so many bytes of it.
pub const MAX_SHOWN: usize = 40;

/// A tree costs far more than its text: 40 bytes for each byte of `[0,0,0,...]`, and
/// seconds of the main loop for 60 MiB of it. Of more JSON text than this no tree is
/// made, be it a `GVariant` or a `JsonNode`; text has no such limit.
pub const MAX_TREE_SIZE: usize = 1 << 20;

/// A client that sends commands and does not read the answers would fill a server's
/// memory with them: one byte that is wrong has an error of 90. While it leaves more than
/// so many bytes unread, its requests wait, as they do while [`MAX_IN_FLIGHT`] of them
/// are not answered.
pub const MAX_BACKLOG: usize = 64 << 10;

/// Events cannot be held back so: they would fill the memory of a server whose client
/// does not read. When one more message comes while so many bytes are unread, the client
/// is given up. A message itself may have any length.
pub const MAX_UNREAD: usize = 16 << 20;

/// What the receive buffer may keep allocated once a message is consumed.
pub(super) const KEPT_BUFFER: usize = 64 << 10;
