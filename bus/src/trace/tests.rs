//! The ring between an honest or a hostile process and the broker.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::*;
use crate::manifest::{Manifest, fd};
use crate::standby::Standby;

struct File(OwnedFd);

impl File {
    fn new() -> File {
        File(sys::memfd("trace", TRACE_BYTES as u64).expect("memfd"))
    }

    fn map(&self) -> Mapping {
        Mapping::shared(self.0.as_fd(), TRACE_BYTES, true).expect("mapping")
    }

    fn tracer(&self) -> Tracer {
        Tracer::new(self.map())
    }

    fn panel(&self) -> Panel {
        Panel::new(Arc::new(self.map()))
    }

    fn reader(&self) -> Reader {
        Reader::new(Arc::new(self.map()))
    }
}

fn take(reader: &mut Reader) -> (Vec<Record>, Taken) {
    let mut records = Vec::new();
    let taken = reader.take(|record| records.push(record));
    (records, taken)
}

#[test]
fn only_what_is_switched_on_is_recorded_and_comes_out_in_order() {
    let file = File::new();
    let (tracer, panel, mut reader) = (file.tracer(), file.panel(), file.reader());
    tracer.begin(events::REQUEST, || unreachable!("off: the numbers are not even made"));
    panel.set(None, events::REQUEST, true);
    tracer.begin(events::REQUEST, || [7, 1, 2, 3]);
    tracer.begin(events::TIMER, || [1; 4]);
    tracer.end(events::REQUEST, || [7, 9, 0, 0]);
    panel.set(None, events::REQUEST, false);
    tracer.begin(events::REQUEST, || [8; 4]);
    let (records, taken) = take(&mut reader);
    let short: Vec<_> = records.iter().map(|r| (r.event, r.end, r.args)).collect();
    assert_eq!(short, [(events::REQUEST, false, [7, 1, 2, 3]), (events::REQUEST, true, [7, 9, 0, 0])]);
    assert!(records[0].time < records[1].time);
    assert_eq!(taken.lost, 0);
    assert_eq!(take(&mut reader).0, []);
}

#[test]
fn cpu_process_has_switches_and_counters_for_each_device() {
    let file = File::new();
    let (tracer, panel, mut reader) = (file.tracer(), file.panel(), file.reader());
    let (one, two) = (tracer.for_device(1), tracer.for_device(2));
    panel.set(Some(2), events::CPU_READ, true);
    for device in [&tracer, &one, &two] {
        device.begin(events::CPU_READ, || [5; 4]);
        device.count_access(access::READ, 3);
    }
    two.count_access(access::READ, 4);
    tracer.count(counter::OUT, 9);
    let (records, _) = take(&mut reader);
    assert_eq!(records.iter().map(|r| r.device).collect::<Vec<_>>(), [2]);
    assert_eq!((panel.access(1, access::READ), panel.access(2, access::READ)), (3, 7));
    assert_eq!(panel.counter(counter::OUT), 9);
    // Nobody counts devices beyond the table.
    tracer.for_device(DEVICES).count_access(access::READ, 1);
}

#[test]
fn cpu_process_says_which_device_it_waits_for_and_since_when() {
    let file = File::new();
    let (tracer, panel) = (file.tracer(), file.panel());
    let device = tracer.for_device(2);
    assert_eq!(panel.wait(2), None);
    device.waits(7);
    let first = panel.wait(2).expect("a wait");
    assert_eq!((first.0, panel.wait(1), panel.wait(3)), (7, None, None));
    device.waits(7);
    let second = panel.wait(2).expect("a wait");
    assert!(second.0 == 7 && second.1 > first.1);
    device.has_waited();
    assert_eq!(panel.wait(2), None);
}

#[test]
fn a_full_ring_loses_the_newest_and_counts_them() {
    let file = File::new();
    let (tracer, panel, mut reader) = (file.tracer(), file.panel(), file.reader());
    panel.set(None, events::TIMER, true);
    for number in 0..RECORDS + 5 {
        tracer.begin(events::TIMER, || [number, 0, 0, 0]);
    }
    assert_eq!(panel.lost(), 5);
    let (records, taken) = take(&mut reader);
    assert_eq!((records.len() as u64, taken.lost), (RECORDS, 5));
    assert_eq!(records.last().map(|r| r.args[0]), Some(RECORDS - 1));
    tracer.begin(events::TIMER, || [99, 0, 0, 0]);
    let (records, taken) = take(&mut reader);
    assert_eq!((records.len(), records[0].args[0], taken.lost), (1, 99, 0));
}

#[test]
fn a_successor_goes_on_behind_the_whole_records_of_its_predecessor() {
    let file = File::new();
    let (first, panel, mut reader) = (file.tracer(), file.panel(), file.reader());
    panel.set(None, events::TIMER, true);
    first.begin(events::TIMER, || [1, 0, 0, 0]);
    // It dies while it writes the second.
    file.map().dword(MARK).store(3, Ordering::SeqCst);
    let (records, taken) = take(&mut reader);
    assert_eq!(records.len(), 1);
    assert_eq!(taken.until, records[0].time, "something older may still come");
    let second = file.tracer();
    second.begin(events::TIMER, || [2, 0, 0, 0]);
    let (records, taken) = take(&mut reader);
    assert_eq!(records.iter().map(|r| r.args[0]).collect::<Vec<_>>(), [2]);
    assert!(taken.until >= records[0].time && taken.lost == 0);
}

#[test]
fn a_record_made_while_the_reader_looks_keeps_its_time() {
    let file = File::new();
    let (tracer, panel, mut reader) = (file.tracer(), file.panel(), file.reader());
    panel.set(None, events::TIMER, true);
    let mut between = || {
        let now = sys::monotonic_ns();
        tracer.begin(events::TIMER, || [0; 4]);
        now
    };
    let mut times = Vec::new();
    let taken = reader.take_by(&mut between, |record| times.push(record.time));
    let written = file.map().dword(RING).load(Ordering::SeqCst);
    assert_eq!(times, [written]);
    assert!(taken.until <= written, "older ones of other processes may still come");
}

#[test]
fn a_manifests_tracer_looks_at_nothing_before_the_jail() {
    let file = File::new();
    let manifest = Manifest {
        name: "bh-rtc".to_owned(),
        role: "rtc".to_owned(),
        fds: vec![(fd::TRACE.to_owned(), file.0.as_raw_fd())],
        ..Manifest::default()
    };
    file.map().dword(MARK).store(7, Ordering::SeqCst);
    let tracer = manifest.tracer().expect("a trace file");
    assert_eq!(file.map().dword(MARK).load(Ordering::SeqCst), 7);
    Standby::of(&manifest).expect("none").wait(&manifest, &tracer);
    assert_eq!(file.map().dword(MARK).load(Ordering::SeqCst), 6, "it goes on");
}

#[test]
fn threads_of_a_process_share_its_ring() {
    let file = File::new();
    let (tracer, panel, mut reader) = (file.tracer(), file.panel(), file.reader());
    panel.set(None, events::CHAR_IN, true);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let tracer = tracer.clone();
            scope.spawn(move || {
                for number in 0..1000 {
                    tracer.begin(events::CHAR_IN, || [thread, number, !thread, !number]);
                }
            });
        }
    });
    let (records, taken) = take(&mut reader);
    assert_eq!((records.len(), taken.lost), (4000, 0));
    let mut next = [0u64; 4];
    for record in records {
        let [thread, number, not_thread, not_number] = record.args;
        assert_eq!((thread, number), (!not_thread, !not_number));
        assert_eq!(number, std::mem::replace(&mut next[thread as usize], number + 1));
    }
}

#[test]
fn a_record_says_which_virtual_cpu_made_it() {
    let file = File::new();
    let (tracer, panel, mut reader) = (file.tracer(), file.panel(), file.reader());
    let device = tracer.for_device(1);
    panel.set(None, events::HALT, true);
    panel.set(Some(1), events::CPU_READ, true);
    tracer.begin(events::HALT, || [0; 4]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            run_cpu(254);
            tracer.begin(events::HALT, || [0; 4]);
            // A port is shared: its tracer alone does not tell.
            device.begin(events::CPU_READ, || [0; 4]);
        });
    });
    device.begin(events::CPU_READ, || [0; 4]);
    let (records, _) = take(&mut reader);
    let short: Vec<_> = records.iter().map(|r| (r.event, r.device, r.cpu)).collect();
    let (halt, read) = (events::HALT, events::CPU_READ);
    assert_eq!(short, [(halt, 255, 0), (halt, 255, 254), (read, 1, 254), (read, 1, 0)]);
}

#[test]
fn a_hostile_process_garbles_its_own_records_and_nothing_else() {
    let file = File::new();
    let (map, mut reader) = (file.map(), file.reader());
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        seed ^ seed >> 29
    };
    let mut last = 0;
    for round in 0..200 {
        for at in (RING..RING + 64 * RECORD_BYTES).step_by(8) {
            map.dword(at).store(random(), Ordering::SeqCst);
        }
        map.dword(LOST).store(random(), Ordering::SeqCst);
        map.dword(TAKEN).store(random(), Ordering::SeqCst);
        let mark = if round % 2 == 0 { random() } else { (reader.taken.wrapping_add(64)).wrapping_mul(2) };
        map.dword(MARK).store(mark, Ordering::SeqCst);
        let mut count = 0;
        reader.take(|record| {
            count += 1;
            assert!(record.event < EVENTS.len());
            assert!(record.time > last, "times go on");
            last = record.time;
        });
        assert!(count <= RECORDS);
    }
    // And an honest successor is understood again.
    let (tracer, panel) = (file.tracer(), file.panel());
    panel.set(None, events::TIMER, true);
    take(&mut reader);
    tracer.begin(events::TIMER, || [77, 0, 0, 0]);
    let (records, _) = take(&mut reader);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].args[0], 77);
}
