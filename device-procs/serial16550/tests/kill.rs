//! The serial port as a real, jailed process that is killed with SIGKILL again and again while bytes cross it both ways:
//! the guest and the back end must see every byte exactly once and in order.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::bench::Process;
use bulkhead_bus::clock::{CLOCK_BYTES, Clock};
use bulkhead_bus::config::SerialConfig;
use bulkhead_bus::conformance::Random;
use bulkhead_bus::device::{DEVICE_BYTES, DevicePort, READY};
use bulkhead_bus::irq::{IRQ_BYTES, IrqPage};
use bulkhead_bus::links::{BYTES_LINK, ByteEnd, Side};
use bulkhead_bus::manifest::{Manifest, fd};
use bulkhead_bus::sys::{self, Mapping};
use bulkhead_bus::wire;
use bulkhead_serial16550::spec::{FCR_ENABLE, IIR_FCR, LSR, LSR_DR, LSR_THRE, RBR_THR_DLL};

const BYTES: u32 = 4000;

struct Rig {
    files: Vec<(&'static str, OwnedFd)>,
}

impl Rig {
    fn new() -> Rig {
        let file = |name, len: usize| (name, sys::memfd(name, len as u64).expect("memfd"));
        let rig = Rig {
            files: vec![
                file(fd::DEVICE, DEVICE_BYTES),
                file(fd::IRQ, IRQ_BYTES),
                file(fd::CLOCK, CLOCK_BYTES),
                file(fd::BELL, BELL_BYTES),
                file(fd::CPU_BELL, BELL_BYTES),
                file("bytes0", BYTES_LINK),
                file("bytes0-peer", BELL_BYTES),
            ],
        };
        Clock::new(rig.map(fd::CLOCK, CLOCK_BYTES)).set_running(true);
        rig
    }

    fn map(&self, name: &str, len: usize) -> Mapping {
        let (_, file) = self.files.iter().find(|(have, _)| *have == name).expect("a file of the rig");
        Mapping::shared(file.as_fd(), len, true).expect("mapping")
    }

    fn bell(&self, name: &str) -> Bell {
        Bell::new(self.map(name, BELL_BYTES))
    }

    fn port(&self) -> DevicePort {
        let irq = IrqPage::new(self.map(fd::IRQ, IRQ_BYTES), self.bell(fd::CPU_BELL));
        DevicePort::new(self.map(fd::DEVICE, DEVICE_BYTES), self.bell(fd::BELL), Arc::new(irq))
    }

    /// Starts the device and waits until it serves.
    fn start(&self) -> Process {
        let device = self.map(fd::DEVICE, DEVICE_BYTES);
        let ready = device.word(READY);
        ready.store(0, Ordering::SeqCst);
        let manifest = Manifest {
            name: "bh-serial0".to_owned(),
            role: "serial".to_owned(),
            config: wire::encode(&SerialConfig::default()).expect("small"),
            ..Manifest::default()
        };
        let files: Vec<_> = self.files.iter().map(|(name, file)| (*name, file.as_fd())).collect();
        let mut process = Process::start("bh-serial", manifest, &files);
        process.wait_ready(|| {
            sys::futex_wait(ready, 0, Some(Duration::from_millis(100)));
            ready.load(Ordering::SeqCst) != 0
        });
        process
    }
}

/// Kills and replaces the device at random moments until told to stop; counts how often it did.
fn executioner(rig: &Rig, stop: &AtomicBool, deaths: &AtomicU32) {
    let mut random = Random::new(std::process::id().into());
    let mut child = rig.start();
    while !stop.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_micros(200 + random.below(6_000)));
        child.kill();
        deaths.fetch_add(1, Ordering::SeqCst);
        child = rig.start();
    }
    child.kill();
}

#[test]
fn every_byte_crosses_once_while_the_process_is_killed_over_and_over() {
    let rig = Rig::new();
    let stop = AtomicBool::new(false);
    // A first device publishes its table of registers, which the port reads.
    let mut first = rig.start();
    first.kill();
    let mut port = rig.port();
    let host = ByteEnd::new(rig.map("bytes0", BYTES_LINK), Arc::new(rig.bell(fd::BELL)), Side::Host);
    let deaths = AtomicU32::new(0);
    let (goal, out, back) = std::thread::scope(|scope| {
        scope.spawn(|| executioner(&rig, &stop, &deaths));
        let (mut out, mut back) = (Vec::new(), Vec::new());
        let (mut written, mut sent) = (0u32, 0u32);
        port.write(0, IIR_FCR as u32, 0, FCR_ENABLE.into());
        let start = Instant::now();
        let mut goal = BYTES;
        while start.elapsed() < Duration::from_secs(60) {
            if out.len() as u32 >= goal && back.len() as u32 >= goal {
                if deaths.load(Ordering::SeqCst) >= 3 {
                    break;
                }
                // A fast machine: on until there were deaths enough to prove something.
                goal += BYTES;
            }
            let status = port.read(0, LSR as u32, 0) as u8;
            if written < goal && status & LSR_THRE != 0 {
                for _ in 0..8 {
                    port.write(0, RBR_THR_DLL as u32, 0, u64::from(byte(written)));
                    written += 1;
                }
            }
            if status & LSR_DR != 0 {
                back.push(port.read(0, RBR_THR_DLL as u32, 0) as u8);
            }
            if sent < goal {
                sent += host.send(&[byte(sent) ^ 0xff]) as u32;
            }
            let mut part = [0; 256];
            let count = host.receive(&mut part);
            out.extend_from_slice(&part[..count]);
        }
        stop.store(true, Ordering::SeqCst);
        (goal, out, back)
    });
    let deaths = deaths.into_inner();
    let expected = (0..goal).map(byte).collect::<Vec<_>>();
    assert_eq!(out.len(), expected.len(), "bytes to the back end, after {deaths} deaths");
    assert!(out == expected, "order of the bytes to the back end");
    assert_eq!(back.len(), expected.len(), "bytes to the guest, after {deaths} deaths");
    assert!(
        back.iter().zip(&expected).all(|(back, sent)| *back == sent ^ 0xff),
        "order of the bytes to the guest"
    );
    assert!(deaths >= 3, "only {deaths} deaths: the test proved nothing");
}

/// The `number`th byte: a sequence without short periods.
fn byte(number: u32) -> u8 {
    (number.wrapping_mul(0x9e37_79b1) >> 24) as u8
}
