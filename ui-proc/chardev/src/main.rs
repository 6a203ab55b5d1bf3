#![forbid(unsafe_code)]
//! A character back end as a process.

fn main() {
    let error = bulkhead_chardev::main();
    eprintln!("{}: {error}", std::env::args().next().unwrap_or_default());
    std::process::exit(1)
}
