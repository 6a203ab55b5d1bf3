#![forbid(unsafe_code)]
//! fw_cfg as a process.

fn main() {
    bulkhead_bus::serve::main(
        |manifest| bulkhead_security::enter(&manifest.role, &[], manifest.terms()),
        bulkhead_fwcfg::FwCfg::from_config,
    )
}
