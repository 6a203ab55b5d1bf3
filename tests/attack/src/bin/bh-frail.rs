//! The back end of the first disk, raw, with one sector that kills it, whoever reads or writes it: what a mistake in the code of an image
//! format is like. For a test; never installed.

use std::os::unix::process::CommandExt;

use bulkhead_attack::DEADLY_SECTOR;
use bulkhead_block::formats::{Image, ImageError, Raw};
use bulkhead_block::server;
use bulkhead_bus::config::BlockConfig;
use bulkhead_bus::links::{BLOCK_LINK, BlockServer};
use bulkhead_bus::manifest::fd;
use bulkhead_bus::standby::Standby;
use bulkhead_bus::{serve, wire};

struct Frail(Raw);

impl Frail {
    fn touch(offset: u64, length: usize) {
        const DEADLY: u64 = DEADLY_SECTOR as u64 * 512;
        if offset < DEADLY + 512 && offset + length as u64 > DEADLY {
            // SAFETY: an undefined instruction: the kernel ends the process here. `abort` would make system calls that its jail forbids.
            unsafe { std::arch::asm!("ud2") };
        }
    }
}

impl Image for Frail {
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn read(&mut self, offset: u64, to: &mut [u8]) -> Result<(), ImageError> {
        Frail::touch(offset, to.len());
        self.0.read(offset, to)
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), ImageError> {
        Frail::touch(offset, from.len());
        self.0.write(offset, from)
    }

    fn flush(&mut self) -> Result<(), ImageError> {
        self.0.flush()
    }

    fn is_write_through(&self) -> bool {
        self.0.is_write_through()
    }
}

fn main() {
    let manifest = serve::manifest().expect("a manifest");
    if manifest.name != "bh-block-hda" {
        let own = std::env::current_exe().expect("own path");
        let real = own.parent().expect("a folder").join("real/bh-block");
        let error = std::process::Command::new(real).arg0(std::env::args().next().unwrap_or_default()).exec();
        panic!("{}: {error}", manifest.name);
    }
    let config: BlockConfig = wire::decode(&manifest.config).expect("a drive");
    let (link, image) = (format!("{}0", fd::BLOCK), format!("{}0", fd::IMAGE));
    let bell = manifest.bell(fd::BELL).expect("a bell");
    let peer = manifest.bell(&format!("{link}{}", fd::PEER_BELL)).expect("the controller's bell");
    let tracer = manifest.tracer().expect("a trace file");
    let link = manifest.map(&link, BLOCK_LINK, true).expect("a link");
    let server = BlockServer::new(link, peer).traced(tracer.clone());
    let keep: Vec<i32> = manifest.descriptor(&image).into_iter().collect();
    let standby = Standby::of(&manifest).expect("a page");
    let raw = Raw::new(manifest.take(&image).expect("an image"), config.bytes, config.read_only, true);
    bulkhead_security::enter(&manifest.role, &keep, manifest.terms()).expect("the jail of the role");
    standby.wait(&manifest, &tracer);
    server.set_ready();
    server::serve(&server, &bell, &mut Frail(raw))
}
