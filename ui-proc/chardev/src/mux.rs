//! The escape key of a terminal that a serial port and the monitor share (manual, 3.4), and time stamps.

/// Where typed bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    /// To the device.
    Device,
    /// To the monitor.
    Monitor,
}

/// What a typed byte means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A byte for whoever has the focus.
    Byte(u8),
    /// Show the help.
    Help,
    /// End the VM.
    Exit,
    /// Commit snapshots.
    Commit,
    /// Send a break condition to the device.
    Break,
    /// The focus has moved.
    Switched,
    /// Nothing.
    Nothing,
}

/// State of the escape key.
#[derive(Clone, Debug)]
pub struct Mux {
    enabled: bool,
    escape: u8,
    escaped: bool,
    both: bool,
    /// Who gets the bytes.
    pub focus: Focus,
    /// Lines of the device are shown with the time.
    pub stamps: bool,
}

impl Mux {
    /// With escape character `escape` if `enabled`; `device` and `monitor` say who is there.
    pub fn new(enabled: bool, escape: u8, device: bool, monitor: bool) -> Mux {
        let focus = if device { Focus::Device } else { Focus::Monitor };
        Mux { enabled, escape, escaped: false, both: device && monitor, focus, stamps: false }
    }

    /// Takes up a predecessor's state.
    pub fn restore(&mut self, escaped: bool, monitor: bool, stamps: bool) {
        self.escaped = escaped;
        if self.both {
            self.focus = if monitor { Focus::Monitor } else { Focus::Device };
        }
        self.stamps = stamps;
    }

    /// Whether the next byte is what the escape character announced.
    pub fn is_escaped(&self) -> bool {
        self.escaped
    }

    /// Whether this byte would mean nothing but itself.
    pub fn is_plain(&self, byte: u8) -> bool {
        !self.enabled || !(self.escaped || byte == self.escape)
    }

    /// Takes one typed byte.
    pub fn take(&mut self, byte: u8) -> Input {
        if !self.enabled {
            return Input::Byte(byte);
        }
        if !std::mem::take(&mut self.escaped) {
            if byte == self.escape {
                self.escaped = true;
                return Input::Nothing;
            }
            return Input::Byte(byte);
        }
        match byte {
            _ if byte == self.escape => Input::Byte(byte),
            b'h' | b'?' => Input::Help,
            b'x' => Input::Exit,
            b's' => Input::Commit,
            b'b' => Input::Break,
            b't' => {
                self.stamps = !self.stamps;
                Input::Nothing
            }
            b'c' if self.both => {
                self.focus = match self.focus {
                    Focus::Device => Focus::Monitor,
                    Focus::Monitor => Focus::Device,
                };
                Input::Switched
            }
            _ => Input::Nothing,
        }
    }
}

/// The help for the escape key, with the key's own name.
pub fn help(escape: u8) -> String {
    let key = match escape {
        control @ 1..=26 => format!("C-{}", char::from(control + b'a' - 1)),
        other => format!("{other:#04x}"),
    };
    let rows = [
        ("h", "print this help"),
        ("x", "exit emulator"),
        ("s", "save disk data back to file (if -snapshot) (not supported yet)"),
        ("t", "toggle console timestamps"),
        ("b", "send break (magic sysrq)"),
        ("c", "switch between console and monitor"),
    ];
    let mut text = String::from("\r\n");
    for (letter, meaning) in rows {
        text.push_str(&format!("{key} {letter}    {meaning}\r\n"));
    }
    text.push_str(&format!("{key} {key}  sends {key}\r\n"));
    text
}

/// Puts the time since the start of the VM in front of each line.
#[derive(Clone, Debug, Default)]
pub struct Stamper {
    /// The cursor is inside a line that has its stamp.
    pub inside: bool,
}

impl Stamper {
    /// `bytes` with time stamps; `now` is nanoseconds since the start.
    pub fn stamp(&mut self, bytes: &[u8], now: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 32);
        for byte in bytes {
            if !self.inside {
                let millis = now / 1_000_000;
                let (seconds, millis) = (millis / 1000, millis % 1000);
                let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
                out.extend(format!("[{hours:02}:{minutes:02}:{seconds:02}.{millis:03}] ").bytes());
                self.inside = true;
            }
            out.push(*byte);
            if *byte == b'\n' {
                self.inside = false;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(mux: &mut Mux, bytes: &[u8]) -> Vec<Input> {
        bytes.iter().map(|byte| mux.take(*byte)).filter(|input| *input != Input::Nothing).collect()
    }

    #[test]
    fn every_documented_key_after_the_escape_is_understood() {
        let mut mux = Mux::new(true, 1, true, true);
        let keys = b"\x01h\x01?\x01x\x01s\x01b\x01c\x01\x01z";
        let expected = [
            Input::Help,
            Input::Help,
            Input::Exit,
            Input::Commit,
            Input::Break,
            Input::Switched,
            Input::Byte(1),
            Input::Byte(b'z'),
        ];
        assert_eq!(typed(&mut mux, keys), expected);
        assert_eq!(mux.focus, Focus::Monitor);
    }

    #[test]
    fn without_mux_the_escape_character_is_a_byte() {
        let mut mux = Mux::new(false, 1, true, false);
        assert_eq!(typed(&mut mux, b"\x01x"), [Input::Byte(1), Input::Byte(b'x')]);
    }

    #[test]
    fn the_focus_stays_where_only_one_side_exists() {
        let mut mux = Mux::new(true, 1, false, true);
        assert_eq!(typed(&mut mux, b"\x01c"), []);
        assert_eq!(mux.focus, Focus::Monitor);
    }

    #[test]
    fn each_line_is_stamped_once() {
        let mut stamper = Stamper::default();
        let text = stamper.stamp(b"a\nb", 3_661_002_000_000);
        assert_eq!(text, b"[01:01:01.002] a\n[01:01:01.002] b");
        assert_eq!(stamper.stamp(b"c\n", 0), b"c\n");
    }

    #[test]
    fn the_help_names_the_configured_key() {
        assert!(help(2).contains("C-b c    switch between console and monitor"));
    }

    #[test]
    fn an_unbuilt_key_is_marked_in_the_help() {
        let text = help(1);
        let row = text.lines().find(|row| row.starts_with("C-a s"));
        assert!(row.is_some_and(|row| row.ends_with("(not supported yet)")), "{row:?}");
    }
}
