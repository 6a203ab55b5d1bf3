//! Image formats: how a drive's bytes lie in host files.

mod overlay;
mod raw;
#[cfg(test)]
mod tests;

pub use overlay::Overlay;
pub use raw::Raw;

/// Why an image could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The range is not inside the image.
    #[error("range is outside the image")]
    Range,
    /// The image is not writable.
    #[error("image is read-only")]
    ReadOnly,
    /// The host's reason.
    #[error("host: {0}")]
    Host(#[from] nix::errno::Errno),
}

/// A drive's contents. Offsets and lengths are bytes; callers stay inside [`Image::bytes`].
pub trait Image {
    /// Size of the drive.
    fn bytes(&self) -> u64;

    /// Reads all of `to`.
    ///
    /// # Errors
    /// The host's.
    fn read(&mut self, offset: u64, to: &mut [u8]) -> Result<(), ImageError>;

    /// Writes all of `from`.
    ///
    /// # Errors
    /// The host's, or when read-only.
    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), ImageError>;

    /// Makes every completed write durable.
    ///
    /// # Errors
    /// The host's.
    fn flush(&mut self) -> Result<(), ImageError>;

    /// Whether a write counts as done only when it is durable: whoever reports it calls [`Image::flush`] first.
    fn is_write_through(&self) -> bool;
}
