//! A device whose protocol is wrong on purpose: it changes its state in place and moves the consumer index afterwards, so a death
//! in between does a request twice. Register 0 adds what is written to it; reading it gives the sum. The first zero that is written is
//! too much for it: it aborts.

use std::sync::atomic::Ordering;

use bulkhead_bus::device::{DEVICE_BYTES, READY, stamp};
use bulkhead_bus::manifest::fd;
use bulkhead_bus::serve::manifest;
use bulkhead_bus::sys;

/// Offsets of the device file's layout (see `bulkhead_bus::device`).
const HEAD: usize = 0x080;
const RESPONSE: usize = 0x088;
const RING: usize = 0x1000;
const STATE: usize = 0x8000;
/// In the state: the zero has come.
const ABORTED: usize = STATE + 8;

fn main() {
    let manifest = manifest().expect("manifest");
    let map = manifest.map(fd::DEVICE, DEVICE_BYTES, true).expect("device file");
    let (bell, irq) = (manifest.bell(fd::BELL).expect("bell"), manifest.irq_page().expect("interrupt page"));
    // One region of eight bytes, all of it sync.
    map.dword(0x200).store(8, Ordering::SeqCst);
    map.word(0x008).store(1, Ordering::SeqCst);
    sys::publish(map.word(READY), 1);
    irq.cpu_bell().wake();
    let (sum, head) = (map.dword(STATE), map.word(HEAD));
    loop {
        let index = head.load(Ordering::SeqCst);
        let at = RING + (index % 1024) as usize * 16;
        let is_there = || (map.dword(at).load(Ordering::SeqCst) >> 24) as u8 == stamp(index);
        if !is_there() {
            bell.sleep(None, is_there);
            continue;
        }
        let is_read = map.dword(at).load(Ordering::SeqCst) as u8 == 1;
        if !is_read {
            let value = map.dword(at + 8).load(Ordering::SeqCst);
            if value == 0 && map.word(ABORTED).swap(1, Ordering::SeqCst) == 0 {
                std::process::abort();
            }
            sum.fetch_add(value, Ordering::SeqCst);
        }
        map.dword(RESPONSE).store(sum.load(Ordering::SeqCst), Ordering::SeqCst);
        sys::publish(head, index.wrapping_add(1));
        irq.cpu_bell().wake();
    }
}
