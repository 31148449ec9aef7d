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

/// A peer that does not speak QMP would be fed and listened to for ever. After
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
/// oldest is forgotten. Ids are never used twice: an answer that comes after all
/// is nobody's.
pub const MAX_ABANDONED: usize = 1024;

/// A peer that goes on sending on a SPICE port, which cannot be held back, while a
/// handler of the program's runs a main loop, would fill the memory. When more bytes
/// than this wait to be delivered, the session fails.
pub const MAX_BUFFERED: usize = 64 << 20;

/// A tree of JSON (a `GVariant`, a `JsonNode`) takes up to 40 times the memory of its
/// text, and long to make: of longer texts none is made.
pub const MAX_TREE_SIZE: usize = 1 << 20;

/// What the receive buffer may keep allocated once a message is consumed.
pub(super) const KEPT_BUFFER: usize = 64 << 10;
