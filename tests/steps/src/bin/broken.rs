//! A device whose protocol is wrong on purpose: it changes its state in place and moves the consumer index afterwards, so a death
//! in between does a request twice. Register 0 adds what is written to it; reading it gives the sum.

use std::sync::atomic::Ordering;

use bulkhead_bus::device::{DEVICE_BYTES, READY};
use bulkhead_bus::manifest::fd;
use bulkhead_bus::serve::manifest;
use bulkhead_bus::sys;

/// Offsets of the device file's layout (see `bulkhead_bus::device`).
const TAIL: usize = 0x040;
const HEAD: usize = 0x080;
const RING: usize = 0x1000;
const RESPONSES: usize = 0x5000;
const STATE: usize = 0x8000;

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
        if index == map.word(TAIL).load(Ordering::SeqCst) {
            bell.sleep(None, || index != map.word(TAIL).load(Ordering::SeqCst));
            continue;
        }
        let at = RING + (index % 1024) as usize * 16;
        let is_read = map.dword(at).load(Ordering::SeqCst) as u8 == 1;
        if !is_read {
            sum.fetch_add(map.dword(at + 8).load(Ordering::SeqCst), Ordering::SeqCst);
        }
        let response = map.dword(RESPONSES + (index % 1024) as usize * 8);
        response.store(sum.load(Ordering::SeqCst), Ordering::SeqCst);
        sys::publish(head, index.wrapping_add(1));
        irq.cpu_bell().wake();
    }
}
