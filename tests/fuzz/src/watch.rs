//! What a worker leaves behind when it cannot say anything itself: the input that it runs is in a file, and a thread ends the
//! process when that takes too long.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Status of a process that an input kept too long.
pub const HUNG: i32 = 99;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Processor time of this process.
pub fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// From now on this process ends with the one that started it: a campaign that is broken off leaves no worker behind.
pub fn end_with_parent() {
    // SAFETY: changes the signal that the end of the parent sends to this process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Watches the inputs of a worker.
#[derive(Debug)]
pub struct Watch {
    file: File,
    beat: Arc<AtomicU64>,
}

impl Watch {
    /// Starts to watch: an input may take `limit` of processor time, and three times that while the process sleeps.
    ///
    /// # Errors
    /// The host's.
    pub fn start(path: &Path, limit: Duration) -> std::io::Result<Watch> {
        let file = File::create(path)?;
        let beat = Arc::new(AtomicU64::new(0));
        let theirs = beat.clone();
        std::thread::Builder::new().spawn(move || watch(&theirs, limit))?;
        Ok(Watch { file, beat })
    }

    /// To be called before each run.
    pub fn note(&self, input: &[u8]) {
        self.beat.fetch_add(1, Ordering::Relaxed);
        // Without the file a crash is still found, just not what made it.
        let _ = self.file.set_len(input.len() as u64).and_then(|()| self.file.write_all_at(input, 0));
    }
}

fn watch(beat: &AtomicU64, limit: Duration) {
    let (mut last, mut since, mut time) = (u64::MAX, Instant::now(), Duration::ZERO);
    loop {
        std::thread::sleep(LOOK);
        let now = beat.load(Ordering::Relaxed);
        if now != last {
            (last, since, time) = (now, Instant::now(), processor_time());
        } else if processor_time().saturating_sub(time) > limit || since.elapsed() > limit * 3 {
            // Nothing of the process can be trusted to let go of a lock: no destructors.
            // SAFETY: ends the process.
            unsafe { libc::_exit(HUNG) };
        }
    }
}
