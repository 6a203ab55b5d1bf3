//! The answers of a device that nobody serves any more.
//!
//! A device whose process does not get ready again and again must not hang the machine: the broker serves its ring in the
//! device's place. Every request completes with all ones, as on a bus where nothing answers; the lines are low; the consumer
//! index in the saved state moves on, so that a later process takes up behind what was answered here. The rest of the saved
//! state is left as it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::bell::Bell;
use crate::device::{self, Request, kind, slot};
use crate::irq::{self, IrqPage};
use crate::sys::{self, Mapping};

/// A device without a process.
#[derive(Debug)]
pub struct DeadDevice {
    map: Mapping,
    bell: Bell,
    irq: Arc<IrqPage>,
    stop: AtomicBool,
}

impl DeadDevice {
    /// Over the device's file, its own bell and the interrupt page, only while no process serves. Lowers the lines of
    /// `source` and hides the mirrored registers.
    pub fn new(map: Mapping, bell: Bell, irq: Arc<IrqPage>, source: usize) -> DeadDevice {
        irq::lower(&map);
        irq.announce(source);
        let _ = map.write(device::MIRROR_DATA, &[0xff; device::MIRROR_BYTES]);
        DeadDevice { map, bell, irq, stop: AtomicBool::new(false) }
    }

    /// Answers until [`DeadDevice::stop`].
    pub fn run(&self) {
        let generation = self.map.dword(device::GENERATION).load(Ordering::SeqCst);
        let active = device::SLOTS + (generation & 1) as usize * device::SLOT_BYTES;
        let consumed = self.map.word(active + slot::CONSUMED);
        while !self.stop.load(Ordering::SeqCst) {
            let mut index = consumed.load(Ordering::SeqCst);
            let tail = self.map.word(device::TAIL).load(Ordering::SeqCst);
            // Both are claims: what no ring can hold is not served.
            let waiting = tail.wrapping_sub(index);
            if waiting != 0 && waiting <= device::RING_ENTRIES {
                for _ in 0..waiting {
                    let request = Request::load(&self.map, index);
                    let at = device::RESPONSES + (index % device::RING_ENTRIES) as usize * 8;
                    let answer = if request.kind == kind::RESET { 0 } else { request.unanswered() };
                    self.map.dword(at).store(answer, Ordering::SeqCst);
                    index = index.wrapping_add(1);
                }
                consumed.store(index, Ordering::SeqCst);
                sys::publish(self.map.word(device::HEAD), index);
                self.irq.cpu_bell().wake();
            }
            let work = || {
                let tail = self.map.word(device::TAIL).load(Ordering::SeqCst);
                tail.wrapping_sub(index).wrapping_sub(1) < device::RING_ENTRIES
                    || self.stop.load(Ordering::SeqCst)
            };
            self.bell.sleep(None, work);
        }
    }

    /// Makes [`DeadDevice::run`] return soon.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.bell.wake();
    }
}
