//! Guest memory, code bitmaps, interrupt page, clock, manifest and wire: what the processes share besides the device files.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::chip::{Class, Outputs, Rule};
use bulkhead_bus::clock::{CLOCK_BYTES, Clock};
use bulkhead_bus::device::DEVICE_BYTES;
use bulkhead_bus::irq::{self, IRQ_BYTES, IrqPage, SOURCES};
use bulkhead_bus::ram::{CodeMap, GuestRam, HIGH_BASE, LOW_LIMIT, code_map_bytes, file_offset};
use bulkhead_bus::sys::{self, Mapping};
use bulkhead_bus::trace::Tracer;
use bulkhead_bus::wire;

fn anonymous(len: usize) -> Mapping {
    Mapping::anonymous(len).expect("mapping")
}

fn irq_page() -> Arc<IrqPage> {
    Arc::new(IrqPage::new(anonymous(IRQ_BYTES), Bell::new(anonymous(BELL_BYTES))))
}

const RAM: u64 = 1 << 20;

/// Memory with code bitmaps, and the CPU's view of these.
fn watched() -> (GuestRam, CodeMap, Arc<IrqPage>) {
    let len = code_map_bytes(RAM);
    let file = sys::memfd("code", len).expect("memfd");
    let map = || CodeMap::new(Mapping::shared(file.as_fd(), len as usize, true).expect("mapping"), RAM);
    let irq = irq_page();
    (GuestRam::new(anonymous(RAM as usize), Some((map(), irq.clone()))), map(), irq)
}

#[test]
fn addresses_are_memory_below_the_hole_and_above_4_gib_only() {
    let ram = LOW_LIMIT + (1 << 30);
    assert_eq!(file_offset(ram, LOW_LIMIT - 1, 1), Some(LOW_LIMIT as usize - 1));
    assert_eq!(file_offset(ram, LOW_LIMIT - 1, 2), None, "into the hole");
    assert_eq!(file_offset(ram, LOW_LIMIT, 1), None);
    assert_eq!(file_offset(ram, HIGH_BASE - 1, 2), None, "out of the hole");
    assert_eq!(file_offset(ram, HIGH_BASE, 1), Some(LOW_LIMIT as usize));
    assert_eq!(file_offset(ram, HIGH_BASE + (1 << 30) - 4, 4), Some(ram as usize - 4));
    assert_eq!(file_offset(ram, HIGH_BASE + (1 << 30) - 4, 5), None);
    assert_eq!(file_offset(ram, u64::MAX, 2), None, "wraps");
    assert_eq!(file_offset(1 << 20, (1 << 20) - 1, 1), Some((1 << 20) - 1));
    assert_eq!(file_offset(1 << 20, 1 << 20, 1), None);
    assert_eq!(file_offset(1 << 20, HIGH_BASE, 1), None, "a small machine has none up there");
}

#[test]
fn dma_into_a_page_with_code_is_told_to_the_cpu() {
    let (ram, cpu, irq) = watched();
    cpu.watch(3);
    assert!(ram.write(0x2ff0, &[1; 16]));
    assert!(!cpu.take_changed() && cpu.take_dirty(0).is_none(), "another page");
    assert!(ram.write(0x2ff0, &[1; 17]));
    assert_eq!(irq.attention().load(Ordering::SeqCst), 1);
    assert!(cpu.take_changed());
    assert!(!cpu.take_changed(), "taken once");
    assert_eq!((cpu.take_dirty(0), cpu.take_dirty(0)), (Some(3), None));
}

#[test]
fn large_dma_marks_every_page_that_it_touches() {
    let (ram, cpu, _) = watched();
    let pages = [1, 64, 65, 254, 255];
    pages.iter().for_each(|page| cpu.watch(*page));
    let from = anonymous(RAM as usize);
    assert!(ram.write_from(0, &from, 0, RAM as usize));
    let mut next = 0;
    let dirty = std::iter::from_fn(|| {
        let page = cpu.take_dirty(next)?;
        next = page + 1;
        // As a bus master would that never stops.
        cpu.wrote(1);
        Some(page)
    });
    assert_eq!(dirty.take(10).collect::<Vec<_>>(), pages);
    assert_eq!((cpu.take_dirty(2), cpu.take_dirty(u64::MAX), cpu.take_dirty(0)), (None, None, Some(1)));
    assert!(!ram.write_from(1, &from, 0, RAM as usize), "one byte too far");
    assert!(ram.write(0x1000, &[]) && cpu.take_dirty(0).is_none(), "nothing was written");
}

#[test]
fn pages_beyond_memory_have_no_bits() {
    let (_, cpu, _) = watched();
    cpu.watch(u64::MAX);
    cpu.watch(1 << 40);
    assert!(!cpu.wrote(u64::MAX) && cpu.take_dirty(0).is_none());
}

#[test]
fn level_that_fell_and_rose_between_two_looks_is_an_edge() {
    let file = anonymous(DEVICE_BYTES);
    let mut out = Outputs::default();
    let before = irq::line(&file, 2).edges;
    for level in [true, false, true] {
        out.level[2] = level;
        assert!(irq::publish(&file, &out, &Tracer::off()));
    }
    let line = irq::line(&file, 2);
    assert!(line.level);
    assert_eq!(line.edges.wrapping_sub(before), 2);
    out.pulses[2] += 1;
    assert!(irq::publish(&file, &out, &Tracer::off()));
    assert_eq!(irq::line(&file, 2).edges.wrapping_sub(before), 3);
}

#[test]
fn publishing_the_same_outputs_again_is_no_news() {
    let file = anonymous(DEVICE_BYTES);
    let mut out = Outputs::default();
    out.level[0] = true;
    out.value[1] = 9;
    assert!(irq::publish(&file, &out, &Tracer::off()));
    assert!(!irq::publish(&file, &out, &Tracer::off()));
    assert_eq!(irq::line(&file, 1).value, 9);
}

#[test]
fn sources_and_lines_out_of_range_stay_inside_the_page() {
    let (page, file) = (irq_page(), anonymous(DEVICE_BYTES));
    page.tell(usize::MAX);
    assert_eq!((page.take_news(), page.attention().load(Ordering::SeqCst)), (1 << (SOURCES - 1), 1));
    assert!(irq::publish(&file, &Outputs { level: [true; 8], ..Outputs::default() }, &Tracer::off()));
    assert!(irq::line(&file, usize::MAX).level);
    irq::lower(&file);
    assert!((0..8).all(|line| !irq::line(&file, line).level));
}

#[test]
fn guest_time_stands_still_while_stopped_and_never_goes_back() {
    let clock = Clock::new(anonymous(CLOCK_BYTES));
    assert_eq!(clock.now(), 0);
    let mut last = 0;
    for running in [true, false, true, true, false, false] {
        clock.set_running(running);
        assert_eq!(clock.is_running(), running);
        let now = clock.now();
        assert!(now >= last);
        std::thread::sleep(std::time::Duration::from_millis(3));
        last = clock.now();
        assert_eq!(last > now, running);
    }
}

#[test]
fn guest_time_beyond_the_end_of_the_hosts_stays_in_the_future() {
    let clock = Clock::new(anonymous(CLOCK_BYTES));
    assert_eq!(clock.host_time(0), None, "it stands");
    clock.set_running(true);
    let now = clock.now();
    assert!(clock.host_time(now).is_some_and(|host| host <= sys::monotonic_ns()));
    assert_eq!(clock.host_time(u64::MAX), Some(u64::MAX));
}

#[test]
fn clock_is_read_whole_while_it_is_written() {
    let file = sys::memfd("clock", CLOCK_BYTES as u64).expect("memfd");
    let map = || Mapping::shared(file.as_fd(), CLOCK_BYTES, true).expect("mapping");
    let (writer, reader) = (Clock::new(map()), Clock::new(map()));
    writer.set_running(true);
    let writing = std::thread::spawn(move || {
        for round in 0..20_000 {
            writer.set_running(round % 2 == 0);
        }
    });
    let mut last = 0;
    while !writing.is_finished() {
        let now = reader.now();
        // A torn pair of flag and offset would be off by the whole uptime of the host.
        assert!(now < 60_000_000_000 && now >= last, "{now} after {last}");
        last = now;
    }
    writing.join().expect("the writer");
}

#[test]
fn files_that_are_short_or_can_shrink_are_not_mapped() {
    let file = sys::memfd("short", 4096).expect("memfd");
    assert!(Mapping::shared(file.as_fd(), 4097, true).is_err());
    assert!(Mapping::shared(file.as_fd(), 4096, false).is_ok());
    let plain = std::fs::File::open("/proc/self/exe").expect("a file");
    assert!(Mapping::shared(plain.as_fd(), 16, false).is_err(), "not sealed");
}

#[test]
fn mapping_refuses_ranges_that_reach_outside() {
    let map = anonymous(4096);
    let mut byte = [0];
    assert!(map.read(4095, &mut byte) && map.write(4095, &byte));
    assert!(!map.read(4096, &mut byte) && !map.write(4096, &byte));
    assert!(!map.read(usize::MAX, &mut byte) && !map.write(usize::MAX, &byte));
}

#[test]
fn wide_write_that_reaches_beyond_its_rule_is_sync() {
    let rules = [Rule::new(4, 6, Class::Sync, Class::Posted)];
    for (offset, bytes, class) in [
        (4, 1, Class::Posted),
        (4, 2, Class::Posted),
        (5, 1, Class::Posted),
        (4, 4, Class::Sync),
        (5, 2, Class::Sync),
        (3, 2, Class::Sync),
        (6, 1, Class::Sync),
    ] {
        let rule = Rule::of_write(&rules, offset, bytes);
        assert_eq!(rule.map_or(Class::Sync, |rule| rule.write), class, "{bytes} bytes at {offset}");
    }
}

#[test]
fn wire_refuses_garbage_and_trailing_bytes() {
    let mut bytes = wire::encode(&("name", 7u32, vec![1u8, 2])).expect("small");
    assert_eq!(wire::decode::<(String, u32, Vec<u8>)>(&bytes).expect("own encoding").1, 7);
    bytes.push(0);
    assert!(wire::decode::<(String, u32, Vec<u8>)>(&bytes).is_err());
    // A length far beyond the limit must not be believed.
    assert!(wire::decode::<Vec<u8>>(&[0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_err());
    assert!(wire::encode(&vec![0u8; wire::LIMIT + 1]).is_err());
}

#[test]
fn memory_written_here_can_be_read_but_not_written_through_its_descriptor() {
    let (file, own) = sys::memfd_written_here("page", 4096).expect("memfd");
    let theirs = Mapping::shared(file.as_fd(), 4096, false).expect("a mapping to read");
    own.word(8).store(7, Ordering::SeqCst);
    assert_eq!(theirs.word(8).load(Ordering::SeqCst), 7);
    let refused = Mapping::shared(file.as_fd(), 4096, true).expect_err("a mapping to write");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    // SAFETY: the whole of a live mapping, whose protection stays as it is.
    let changed = unsafe { libc::mprotect(theirs.base().cast(), 4096, libc::PROT_READ | libc::PROT_WRITE) };
    assert_eq!((changed, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EACCES)));
    // SAFETY: a plain system call with a live buffer.
    let written = unsafe { libc::pwrite(file.as_raw_fd(), [1u8; 4].as_ptr().cast(), 4, 8) };
    assert_eq!((written, own.word(8).load(Ordering::SeqCst)), (-1, 7));
}

#[test]
fn sealed_contents_are_read_by_everybody_and_changed_by_nobody() {
    let file = sys::memfd_of("rom", &[7; 5000]).expect("memfd");
    let map = Mapping::shared(file.as_fd(), 5000, false).expect("mapping");
    let mut last = [0u8];
    assert!(map.read(4999, &mut last));
    assert_eq!(last, [7]);
    assert!(Mapping::shared(file.as_fd(), 5000, true).is_err(), "mapped to be written");
    let file = std::fs::File::from(file);
    assert!(std::os::unix::fs::FileExt::write_at(&file, &[1], 0).is_err() && file.set_len(1).is_err());
}
