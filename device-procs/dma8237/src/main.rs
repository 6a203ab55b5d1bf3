#![forbid(unsafe_code)]
//! The DMA controllers as a process.

fn main() {
    bulkhead_bus::serve::main(
        |manifest| bulkhead_security::enter(&manifest.role, &[], manifest.terms()),
        |_config| Ok(bulkhead_dma8237::Dma8237::new()),
    )
}
