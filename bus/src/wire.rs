//! The one encoding of messages between processes: bincode with a size limit.

use serde::{Serialize, de::DeserializeOwned};

/// Largest message in bytes.
pub const LIMIT: usize = 1 << 20;

/// A message that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not a valid encoding of the expected type, or too long.
    #[error("malformed message")]
    Malformed,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// Encodes a value.
///
/// # Errors
/// When it would pass [`LIMIT`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, WireError> {
    // The limit of the configuration holds for decoding only.
    let bytes = bincode::serde::encode_to_vec(value, config()).map_err(|_| WireError::Malformed)?;
    if bytes.len() > LIMIT { Err(WireError::Malformed) } else { Ok(bytes) }
}

/// Decodes a value and checks that nothing follows it.
///
/// # Errors
/// When the bytes are not exactly one encoded `T` within [`LIMIT`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    match bincode::serde::decode_from_slice(bytes, config()) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        _ => Err(WireError::Malformed),
    }
}
