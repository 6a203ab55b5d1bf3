//! A shell of the Debian guest on a serial port that is a TCP socket.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::Vm;

/// Disk drivers that Debian builds as modules, in the order of their dependencies.
pub const MODULES: &str = "scsi_common scsi_mod libata ata_piix crc64 crc64-rocksoft crct10dif_common crct10dif_generic \
                           crc-t10dif t10-pi sd_mod";
/// Besides, what a file system needs.
const EXT4: &str = "crc16 crc32c_generic mbcache jbd2 ext4";

/// A function for the shell of a guest: `disk N` prints the device of disk N of the first IDE channel, if it is there. The letter alone does not tell:
/// Linux looks at several disks at once and names first whichever answers first.
pub const DISK: &str = "disk() { for s in /sys/block/sd*; do case $(readlink $s/device) in */0:0:$1:0) echo /dev/${s##*/} ;; esac; done; }\n";

/// Lines for the shell of the Debian guest: it becomes a shell whose root is the file system on the first disk. Typed again they do no harm.
pub fn enter_disk() -> String {
    format!(
        "{DISK}cd /lib/modules/*; for m in {MODULES} {EXT4}; do insmod $m.ko 2>/dev/null; done; \
         n=0; while [ -d /sys/block ] && [ -z \"$(disk 0)\" ] && [ $n -lt 60 ]; do sleep 1; n=$((n + 1)); done; \
         [ -x /mnt/bin/sh ] || mount -t ext4 -o noatime $(disk 0) /mnt; \
         [ -x /mnt/bin/sh ] && mount -t proc proc /mnt/proc && mount -t tmpfs tmp /mnt/tmp && \
         mount -t devtmpfs dev /mnt/dev && exec chroot /mnt /bin/sh\n"
    )
}

/// A byte of an I/O port out (`o PORT VALUE`) and in (`i PORT`), by `/dev/port`.
pub const PORTS: &str = "o() { printf \"\\\\$(printf %03o $2)\" | dd of=/dev/port bs=1 seek=$(($1)) conv=notrunc 2>/dev/null; }; \
                         i() { echo $(dd if=/dev/port bs=1 skip=$(($1)) count=1 2>/dev/null | od -An -tu1); }\n";
/// Lines of the kernel that tell of a disturbed device.
pub const COMPLAINTS: &str =
    "'I/O error|exception Emask|lost interrupt|timed? ?out|failed command|hard resetting|overrun'";
/// Longest wait for a command.
const LIMIT: Duration = Duration::from_secs(180);

/// Waits for the address of a `tcp:127.0.0.1:0,server,nowait` character device of `vm`.
///
/// # Panics
/// When none is announced within 30 seconds.
pub fn address(vm: &Vm) -> String {
    vm.expect_error(",server", 30);
    let errors = vm.errors();
    let rest = errors.split_once("char device listening on tcp:").map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split_once(',')).expect("an address").0.to_owned()
}

/// A shell.
pub struct Session {
    stream: TcpStream,
    text: Vec<u8>,
    step: u32,
}

impl Session {
    /// Connects to the console of a guest that boots, waits for its shell and loads the drivers of its disks.
    ///
    /// # Panics
    /// When there is no shell within some minutes.
    pub fn open(address: &str) -> Session {
        let stream = TcpStream::connect(address).expect("the serial port listens");
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("time-out");
        let mut session = Session { stream, text: Vec::new(), step: 0 };
        session.expect("userland is up", LIMIT);
        session.expect("# ", LIMIT);
        session.run("dmesg -n 1");
        session.run(PORTS);
        session
            .run(&format!("cd /lib/modules/*; for m in {MODULES}; do insmod $m.ko 2>/dev/null; done; cd /"));
        session
    }

    /// Waits for a text; everything up to its end.
    ///
    /// # Panics
    /// When it does not come in time or the connection ends.
    pub fn expect(&mut self, text: &str, limit: Duration) -> String {
        let end = Instant::now() + limit;
        loop {
            if let Some(at) = self.text.windows(text.len()).position(|window| window == text.as_bytes()) {
                let found: Vec<u8> = self.text.drain(..at + text.len()).collect();
                return String::from_utf8_lossy(&found).into_owned();
            }
            let mut piece = [0u8; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => panic!("the session has ended; last of it:\n{}", self.tail()),
                Ok(count) => self.text.extend_from_slice(piece.get(..count).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => panic!("the session is broken: {error}"),
            }
            assert!(Instant::now() < end, "no {text:?}; the session ends:\n{}", self.tail());
        }
    }

    fn tail(&self) -> String {
        let at = self.text.len().saturating_sub(2000);
        String::from_utf8_lossy(self.text.get(at..).unwrap_or_default()).into_owned()
    }

    /// Types a command; what it printed.
    ///
    /// # Panics
    /// As [`Session::expect`].
    pub fn run(&mut self, command: &str) -> String {
        self.step += 1;
        // The echo of the command must not look like its end.
        let line = format!("{}; echo \"<\"{}\">\"\n", command.trim_end(), self.step);
        self.stream.write_all(line.as_bytes()).expect("the serial port takes bytes");
        let text = self.expect(&format!("<{}>", self.step), LIMIT);
        let echo = "\">\"\r\n";
        let output = text.rsplit_once(echo).map_or(text.as_str(), |(_, output)| output);
        output.trim_end_matches(&format!("<{}>", self.step)).replace('\r', "").trim().to_owned()
    }

    /// Types a line and waits for nothing.
    ///
    /// # Panics
    /// When the connection has ended.
    pub fn tell(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).expect("the serial port takes bytes");
    }
}
