//! Every limit of the database, by name.

/// Longest key.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Most rows or feed records that one op may ask for.
pub const ROWS_MAX: u32 = 1_000;
/// A reply to a scan or feed read ends when its keys and values come to this much (with one row at least).
pub const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest encoded op: compare-and-set with three longest parts, and room for lengths.
pub const OP_BYTES_MAX: usize = KEY_BYTES_MAX + 2 * VALUE_BYTES_MAX + 64;
/// Largest encoded reply: the last row may pass [`REPLY_BYTES_MAX`] by its own length.
pub const ENCODED_REPLY_BYTES_MAX: usize =
    REPLY_BYTES_MAX + KEY_BYTES_MAX + VALUE_BYTES_MAX + 64 * (ROWS_MAX as usize + 1);
