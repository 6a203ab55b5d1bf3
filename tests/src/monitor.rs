//! A client of a VM's monitor at a socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A connection to the monitor, at its prompt.
pub struct Monitor(UnixStream);

impl Monitor {
    /// Connects to the monitor at a UNIX socket; the VM may still be starting.
    ///
    /// # Panics
    /// When no monitor answers there within 30 seconds.
    pub fn connect(path: &str) -> Monitor {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(stream) = UnixStream::connect(path) {
                stream.set_read_timeout(Some(Duration::from_secs(20))).expect("time-out");
                let mut monitor = Monitor(stream);
                monitor.until_prompt();
                // The prompt is drawn again for a new client.
                monitor.ask("info version");
                return monitor;
            }
            assert!(Instant::now() < end, "no monitor at {path}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn until_prompt(&mut self) -> String {
        let mut text = Vec::new();
        let mut byte = [0u8];
        while !text.ends_with(b"(qemu) ") {
            let count = self.0.read(&mut byte).expect("the monitor answers");
            assert_eq!(count, 1, "the monitor hung up");
            text.push(byte[0]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Runs a command; what it prints.
    ///
    /// # Panics
    /// When no prompt follows within 20 seconds.
    pub fn ask(&mut self, command: &str) -> String {
        self.0.write_all(format!("{command}\r").as_bytes()).expect("the monitor listens");
        let mut text = String::new();
        // The echo of the command comes first, maybe behind a prompt drawn again.
        while !text.contains(&format!("{command}\r\n")) {
            text.push_str(&self.until_prompt());
        }
        let (_, answer) = text.split_once(&format!("{command}\r\n")).expect("echo");
        answer.trim_end_matches("(qemu) ").replace("\r\n", "\n")
    }

    /// Runs a command whose end is the machine's end: sends it and waits for nothing.
    ///
    /// # Panics
    /// When the monitor no longer listens.
    pub fn tell(&mut self, command: &str) {
        self.0.write_all(format!("{command}\r").as_bytes()).expect("the monitor listens");
    }
}
