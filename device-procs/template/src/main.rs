#![forbid(unsafe_code)]
//! The countdown as a process.

fn main() {
    bulkhead_bus::serve::main(|_| Ok(()), |_config| Ok(bulkhead_template::Countdown::new()))
}
