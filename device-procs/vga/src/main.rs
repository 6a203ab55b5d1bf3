#![forbid(unsafe_code)]
//! `bh-vga`: the standard VGA as a process of its own.

use bulkhead_bus::{serve, wire};
use bulkhead_vga::Vga;

fn main() {
    serve::main(
        |manifest| bulkhead_security::enter(&manifest.role, &[], manifest.terms()),
        |config| {
            let config = wire::decode(config).map_err(|error| error.to_string())?;
            Vga::new(config)
        },
    )
}
