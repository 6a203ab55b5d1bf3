#![forbid(unsafe_code)]
//! `bh-block`: one drive's image as a process.

use bulkhead_block::formats::{Image, ImageError, Overlay, Raw};
use bulkhead_block::server;
use bulkhead_bus::config::{BlockCache, BlockConfig};
use bulkhead_bus::links::{BLOCK_LINK, BlockServer};
use bulkhead_bus::manifest::{Manifest, fd};
use bulkhead_bus::serve::{self, StartError};
use bulkhead_bus::standby::Standby;
use bulkhead_bus::wire;
use bulkhead_security::Terms;

fn main() {
    let error = match start() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln!("bh-block: {error}");
    std::process::exit(1)
}

fn refused(error: impl std::fmt::Display) -> StartError {
    StartError::Refused(error.to_string())
}

fn start() -> Result<std::convert::Infallible, StartError> {
    let manifest = serve::manifest()?;
    let config: BlockConfig = wire::decode(&manifest.config).map_err(refused)?;
    let bell = manifest.bell(fd::BELL)?;
    let link = format!("{}0", fd::BLOCK);
    let peer = manifest.bell(&format!("{link}{}", fd::PEER_BELL))?;
    let tracer = manifest.tracer()?;
    let block = BlockServer::new(manifest.map(&link, BLOCK_LINK, true)?, peer).traced(tracer.clone());
    let standby = Standby::of(&manifest)?;
    let keep: Vec<i32> = [format!("{}0", fd::IMAGE), fd::OVERLAY.to_owned()]
        .iter()
        .filter_map(|name| manifest.descriptor(name))
        .collect();
    let longest = if config.snapshot { Overlay::longest(config.bytes) } else { Raw::longest(config.bytes) };
    let terms = Terms { longest_file: Some(longest), ..manifest.terms().into() };
    bulkhead_security::enter(&manifest.role, &keep, terms).map_err(StartError::Refused)?;
    bulkhead_bus::sys::release_program_pages();
    standby.wait(&manifest, &tracer);
    // A predecessor has changed what an image says of itself.
    let mut image: Box<dyn Image> = if config.empty { Box::new(Empty) } else { open(&manifest, &config)? };
    block.set_ready();
    server::serve(&block, &bell, image.as_mut())
}

fn open(manifest: &Manifest, config: &BlockConfig) -> Result<Box<dyn Image>, StartError> {
    if config.format != "raw" {
        return Err(refused(format!("image format {}: not supported yet", config.format)));
    }
    if i64::try_from(config.bytes).is_err() {
        return Err(refused("image is too large"));
    }
    let file = manifest.take(&format!("{}0", fd::IMAGE))?;
    let write_through = config.cache == BlockCache::Writethrough;
    let raw = Raw::new(file, config.bytes, config.read_only || config.snapshot, write_through);
    if !config.snapshot {
        return Ok(Box::new(raw));
    }
    let overlay = manifest.take(fd::OVERLAY)?;
    Ok(Box::new(Overlay::new(Box::new(raw), overlay).map_err(refused)?))
}

/// A drive without a medium.
struct Empty;

impl Image for Empty {
    fn bytes(&self) -> u64 {
        0
    }

    fn read(&mut self, _offset: u64, _to: &mut [u8]) -> Result<(), ImageError> {
        Err(ImageError::Range)
    }

    fn write(&mut self, _offset: u64, _from: &[u8]) -> Result<(), ImageError> {
        Err(ImageError::Range)
    }

    fn flush(&mut self) -> Result<(), ImageError> {
        Ok(())
    }

    fn is_write_through(&self) -> bool {
        false
    }
}
