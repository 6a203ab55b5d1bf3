#![forbid(unsafe_code)]
//! `bh-ide`: the PIIX3 IDE function as a process of its own.

use bulkhead_bus::{serve, wire};
use bulkhead_piix3ide::Piix3Ide;

fn main() {
    serve::main(
        |manifest| bulkhead_security::enter(&manifest.role, &[], manifest.terms()),
        |config| {
            let config = wire::decode(config).map_err(|error| error.to_string())?;
            Ok(Piix3Ide::new(config))
        },
    )
}
