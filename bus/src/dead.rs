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
        map.dword(device::DEADLINE).store(0, Ordering::SeqCst);
        let _ = map.write(device::CALM, &[0; device::CALM_MAX * 4]);
        let _ = map.write(device::MIRROR_DATA, &[0xff; device::MIRROR_BYTES]);
        DeadDevice { map, bell, irq, stop: AtomicBool::new(false) }
    }

    /// Answers until [`DeadDevice::stop`].
    pub fn run(&self) {
        let generation = self.map.dword(device::GENERATION).load(Ordering::SeqCst);
        let active = device::SLOTS + (generation & 1) as usize * device::SLOT_BYTES;
        let consumed = self.map.word(active + slot::CONSUMED);
        let response = self.map.dword(active + slot::RESPONSE);
        while !self.stop.load(Ordering::SeqCst) {
            let done = consumed.load(Ordering::SeqCst);
            let mut index = device::resume_at(&self.map, done);
            // Only the last one can be waited for with its response.
            let mut answer = u64::MAX;
            // What is there may be made up: at most one ring full.
            for _ in 0..device::RING_ENTRIES {
                let Some(request) = Request::load_sent(&self.map, index) else { break };
                answer = if request.kind == kind::RESET { 0 } else { request.unanswered() };
                index = index.wrapping_add(1);
            }
            if index != done {
                response.store(answer, Ordering::SeqCst);
                consumed.store(index, Ordering::SeqCst);
            }
            // Not only what was answered here: the device may have died between a commit and its publication.
            let head = self.map.word(device::HEAD);
            if head.load(Ordering::SeqCst) != index {
                self.map.dword(device::RESPONSE).store(response.load(Ordering::SeqCst), Ordering::SeqCst);
                sys::publish(head, index);
                self.irq.cpu_bell().wake();
            }
            let work = || Request::load_sent(&self.map, index).is_some() || self.stop.load(Ordering::SeqCst);
            self.bell.sleep(None, work);
        }
    }

    /// Makes [`DeadDevice::run`] return soon.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.bell.wake();
    }
}
