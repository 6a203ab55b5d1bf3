//! The keyboard: key events to scan codes, and its command set (IBM PS/2 reference, "Keyboards (101- and 102-Key)").

use crate::spec::{ACK, PASSED, RESEND, set2, set3};
use crate::state::{KeyboardState, Queue};

/// Keys pressed are dropped while this many bytes wait. Releases may still use the rest, so that no key hangs.
const KEYS_LIMIT: usize = 96;
const ANSWERS_LIMIT: usize = 16;
/// Typematic setting after power-on: 10.9 characters a second after 500 ms.
const TYPEMATIC: u8 = 0x2b;

/// Held modifiers.
mod held {
    pub const SHIFT: u8 = 1;
    pub const CONTROL: u8 = 2;
    pub const ALT: u8 = 4;
}

/// Commands of the keyboard.
mod command {
    pub const LIGHTS: u8 = 0xed;
    pub const ECHO: u8 = 0xee;
    pub const SET: u8 = 0xf0;
    pub const IDENTIFY: u8 = 0xf2;
    pub const TYPEMATIC: u8 = 0xf3;
    pub const ENABLE: u8 = 0xf4;
    pub const DISABLE: u8 = 0xf5;
    pub const DEFAULTS: u8 = 0xf6;
    /// All keys typematic, make and break, make, all three.
    pub const ALL_TYPEMATIC: u8 = 0xf7;
    pub const ALL_MAKE_BREAK: u8 = 0xf8;
    pub const ALL: u8 = 0xfa;
    /// One key typematic, make and break, make; key codes follow.
    pub const KEY_TYPEMATIC: u8 = 0xfb;
    pub const KEY_MAKE: u8 = 0xfd;
    pub const RESEND: u8 = 0xfe;
    pub const RESET: u8 = 0xff;
}

/// A short run of bytes built up on the way into a queue.
#[derive(Default)]
struct Codes {
    bytes: [u8; 8],
    len: usize,
}

impl Codes {
    fn add(&mut self, codes: &[u8]) {
        for code in codes {
            if let Some(to) = self.bytes.get_mut(self.len) {
                *to = *code;
                self.len += 1;
            }
        }
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl KeyboardState {
    /// As after power-on.
    pub fn new() -> KeyboardState {
        KeyboardState {
            answers: Queue::EMPTY,
            keys: Queue::EMPTY,
            command: 0,
            set: 2,
            enabled: 1,
            leds: 0,
            typematic: TYPEMATIC,
            releases: 0,
            last: 0,
            held: 0,
            padding: [0; 2],
        }
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.answers.is_valid()
            && self.keys.is_valid()
            && (1..=3).contains(&self.set)
            && self.enabled <= 1
            && self.padding == [0; 2]
    }

    /// The next byte on the wire.
    pub fn send(&mut self) -> Option<u8> {
        let byte = self.answers.pop().or_else(|| self.keys.pop())?;
        if byte != RESEND {
            self.last = byte;
        }
        Some(byte)
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.answers.push(bytes, ANSWERS_LIMIT);
    }

    fn defaults(&mut self) {
        self.keys.clear();
        self.set = 2;
        self.typematic = TYPEMATIC;
        self.releases = 0;
    }

    /// A byte from the host.
    pub fn receive(&mut self, byte: u8) {
        let pending = std::mem::take(&mut self.command);
        // A command byte where an argument is due begins anew.
        if pending != 0 && byte < command::LIGHTS {
            self.argument(pending, byte);
            return;
        }
        match byte {
            command::LIGHTS | command::SET | command::TYPEMATIC => {
                self.command = byte;
                self.answer(&[ACK]);
            }
            command::KEY_TYPEMATIC..=command::KEY_MAKE => {
                self.command = byte;
                self.answer(&[ACK]);
            }
            command::ECHO => self.answer(&[command::ECHO]),
            command::IDENTIFY => self.answer(&[ACK, 0xab, 0x83]),
            command::ENABLE => {
                self.keys.clear();
                self.enabled = 1;
                self.answer(&[ACK]);
            }
            command::DISABLE => {
                self.defaults();
                self.enabled = 0;
                self.answer(&[ACK]);
            }
            command::DEFAULTS => {
                self.defaults();
                self.enabled = 1;
                self.answer(&[ACK]);
            }
            command::ALL_TYPEMATIC..=command::ALL => {
                self.releases = byte;
                self.answer(&[ACK]);
            }
            command::RESEND => {
                let last = self.last;
                self.answer(&[last]);
            }
            command::RESET => {
                let held = self.held;
                *self = KeyboardState { held, ..KeyboardState::new() };
                self.answer(&[ACK, PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    fn argument(&mut self, pending: u8, byte: u8) {
        match (pending, byte) {
            (command::LIGHTS, _) => {
                self.leds = byte & 7;
                self.answer(&[ACK]);
            }
            (command::SET, 0) => {
                let set = self.set;
                self.answer(&[ACK, set]);
            }
            (command::SET, 1..=3) => {
                self.set = byte;
                self.keys.clear();
                self.answer(&[ACK]);
            }
            (command::TYPEMATIC, 0..=0x7f) => {
                self.typematic = byte;
                self.answer(&[ACK]);
            }
            // Key codes follow until the next command.
            (command::KEY_TYPEMATIC..=command::KEY_MAKE, _) => {
                self.command = pending;
                self.answer(&[ACK]);
            }
            _ => {
                self.command = pending;
                self.answer(&[RESEND]);
            }
        }
    }

    /// A key was pressed or released; `code` is its set-1 make code, plus 0x100 for extended keys.
    pub fn key(&mut self, code: u16, down: bool) {
        let extended = code & 0x100 != 0;
        let key = (code & 0x7f) as u8;
        if code & !0x17f != 0 || key == 0 {
            return;
        }
        let modifier = match (key, extended) {
            (0x2a | 0x36, false) => held::SHIFT,
            (0x1d, _) => held::CONTROL,
            (0x38, _) => held::ALT,
            _ => 0,
        };
        self.held = if down { self.held | modifier } else { self.held & !modifier };
        if self.enabled == 0 {
            return;
        }
        let mut codes = Codes::default();
        match self.set {
            1 => self.set1(key, extended, down, &mut codes),
            3 => self.set3(key, extended, down, &mut codes),
            _ => self.set2(key, extended, down, &mut codes),
        }
        let limit = if down { KEYS_LIMIT } else { crate::state::QUEUE };
        self.keys.push(codes.as_slice(), limit);
    }

    /// Print screen without its fake shift: control or shift is held already.
    fn is_plain_print(&self) -> bool {
        self.held & (held::SHIFT | held::CONTROL) != 0
    }

    fn set1(&self, key: u8, extended: bool, down: bool, codes: &mut Codes) {
        let release = if down { 0 } else { 0x80 };
        match (extended, key) {
            // Pause reports everything when pressed; with control it is break.
            (true, 0x45) if self.held & held::CONTROL == 0 => {
                if down {
                    codes.add(&[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
                }
            }
            (true, 0x45) => {
                if down {
                    codes.add(&[0xe0, 0x46, 0xe0, 0xc6]);
                }
            }
            // Print screen with alternate is the system request key.
            (true, 0x37) if self.held & held::ALT != 0 => codes.add(&[0x54 | release]),
            (true, 0x37) if self.is_plain_print() => codes.add(&[0xe0, 0x37 | release]),
            (true, 0x37) if down => codes.add(&[0xe0, 0x2a, 0xe0, 0x37]),
            (true, 0x37) => codes.add(&[0xe0, 0xb7, 0xe0, 0xaa]),
            (true, _) => codes.add(&[0xe0, key | release]),
            (false, _) => codes.add(&[key | release]),
        }
    }

    fn set2(&self, key: u8, extended: bool, down: bool, codes: &mut Codes) {
        let one = |codes: &mut Codes, extended: bool, code: u8| {
            if extended {
                codes.add(&[0xe0]);
            }
            if !down {
                codes.add(&[0xf0]);
            }
            codes.add(&[code]);
        };
        match (extended, key) {
            (true, 0x45) if self.held & held::CONTROL == 0 => {
                if down {
                    codes.add(&[0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]);
                }
            }
            (true, 0x45) => {
                if down {
                    codes.add(&[0xe0, 0x7e, 0xe0, 0xf0, 0x7e]);
                }
            }
            (true, 0x37) if self.held & held::ALT != 0 => one(codes, false, 0x84),
            (true, 0x37) if self.is_plain_print() => one(codes, true, 0x7c),
            (true, 0x37) if down => codes.add(&[0xe0, 0x12, 0xe0, 0x7c]),
            (true, 0x37) => codes.add(&[0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12]),
            _ => {
                if let Some(code) = set2(key) {
                    one(codes, extended, code);
                }
            }
        }
    }

    fn set3(&self, key: u8, extended: bool, down: bool, codes: &mut Codes) {
        let Some(code) = set3(key, extended) else { return };
        // After power-on only the modifiers and the capitals lock report releases.
        let both = match self.releases {
            command::ALL_MAKE_BREAK | command::ALL => true,
            0 => matches!(key, 0x1d | 0x2a | 0x36 | 0x38 | 0x3a),
            _ => false,
        };
        match (down, both) {
            (true, _) => codes.add(&[code]),
            (false, true) => codes.add(&[0xf0, code]),
            (false, false) => {}
        }
    }
}

impl Default for KeyboardState {
    fn default() -> Self {
        KeyboardState::new()
    }
}
