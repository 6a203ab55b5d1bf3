//! Faults on purpose: what the campaign must find, or its silence about the others means nothing. Each waits for one byte.

use std::sync::Mutex;

use super::{Target, target};

static HOARD: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn is_hit(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| first >> 4 == 7)
}

/// Run by name only.
pub const PLANTED: &[Target] = &[
    target("planted-panic", "a panic", |bytes| assert!(!is_hit(bytes), "planted")),
    target("planted-abort", "an abort", |bytes| {
        if is_hit(bytes) {
            std::process::abort();
        }
    }),
    target("planted-loop", "a loop without end", |bytes| {
        while is_hit(bytes) {
            std::hint::spin_loop();
        }
    }),
    target("planted-wait", "a wait for nobody", |bytes| {
        while is_hit(bytes) {
            std::thread::park();
        }
    }),
    target("planted-leak", "memory that is kept", |bytes| {
        if is_hit(bytes)
            && let Ok(mut hoard) = HOARD.lock()
        {
            hoard.push(vec![0; 100]);
        }
    }),
    target("planted-files", "descriptors that are kept", |bytes| {
        if is_hit(bytes) {
            // A descriptor that nobody closes, without memory.
            std::mem::forget(std::fs::File::open("/proc/self/stat"));
        }
    }),
    target("planted-greed", "more memory than there is", |bytes| {
        if is_hit(bytes) {
            drop(std::hint::black_box(Vec::<u8>::with_capacity(4 << 30)));
        }
    }),
];
