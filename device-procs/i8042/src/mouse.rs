//! The mouse: motion to packets, and its command set (IBM PS/2 reference, "Mouse"; Microsoft "IntelliMouse" extensions).

use crate::spec::{ACK, PASSED, RESEND};
use crate::state::{MouseState, Queue};

/// A new packet is made while no more than this many bytes wait; until then motion adds up.
const PACKETS_LIMIT: usize = 16;
const QUEUE_LIMIT: usize = 32;
/// Motion that is not read is forgotten beyond this.
const MOTION_MAX: i32 = 1 << 16;
const RATE: u8 = 100;
const RESOLUTION: u8 = 2;

/// Commands of the mouse.
mod command {
    pub const SCALING_1_1: u8 = 0xe6;
    pub const SCALING_2_1: u8 = 0xe7;
    pub const RESOLUTION: u8 = 0xe8;
    pub const STATUS: u8 = 0xe9;
    pub const STREAM: u8 = 0xea;
    pub const READ: u8 = 0xeb;
    pub const UNWRAP: u8 = 0xec;
    pub const WRAP: u8 = 0xee;
    pub const REMOTE: u8 = 0xf0;
    pub const IDENTIFY: u8 = 0xf2;
    pub const RATE: u8 = 0xf3;
    pub const ENABLE: u8 = 0xf4;
    pub const DISABLE: u8 = 0xf5;
    pub const DEFAULTS: u8 = 0xf6;
    pub const RESEND: u8 = 0xfe;
    pub const RESET: u8 = 0xff;
}

impl MouseState {
    /// As after power-on.
    pub fn new() -> MouseState {
        MouseState {
            dx: 0,
            dy: 0,
            dz: 0,
            queue: Queue::EMPTY,
            command: 0,
            id: 0,
            rate: RATE,
            knock: [0; 2],
            resolution: RESOLUTION,
            scaling: 0,
            remote: 0,
            wrap: 0,
            enabled: 0,
            buttons: 0,
            reported: 0,
            last: [0; 4],
            last_len: 0,
            padding: [0; 2],
        }
    }

    pub(crate) fn is_valid(&self) -> bool {
        let motion = [self.dx, self.dy, self.dz].iter().all(|d| (-MOTION_MAX..=MOTION_MAX).contains(d));
        motion
            && self.queue.is_valid()
            && matches!(self.id, 0 | 3 | 4)
            && self.resolution <= 3
            && [self.scaling, self.remote, self.wrap, self.enabled].iter().all(|flag| *flag <= 1)
            && usize::from(self.last_len) <= self.last.len()
            && (self.buttons | self.reported) & !0x1f == 0
            && self.padding == [0; 2]
    }

    /// The next byte on the wire.
    pub fn send(&mut self) -> Option<u8> {
        self.report();
        self.queue.pop()
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.last = [0; 4];
        self.last.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.last_len = bytes.len().min(4) as u8;
        self.queue.push(bytes, QUEUE_LIMIT);
    }

    fn defaults(&mut self) {
        self.rate = RATE;
        self.resolution = RESOLUTION;
        self.scaling = 0;
        self.remote = 0;
        self.enabled = 0;
        self.wrap = 0;
        self.knock = [0; 2];
        (self.dx, self.dy, self.dz) = (0, 0, 0);
    }

    /// A byte from the host.
    pub fn receive(&mut self, byte: u8) {
        if self.wrap == 1 && byte != command::UNWRAP && byte != command::RESET {
            self.answer(&[byte]);
            return;
        }
        // Whatever waited is dropped: the answer comes next.
        self.queue.clear();
        match std::mem::take(&mut self.command) {
            command::RESOLUTION if byte <= 3 => {
                self.resolution = byte;
                self.answer(&[ACK]);
            }
            command::RATE if matches!(byte, 10 | 20 | 40 | 60 | 80 | 100 | 200) => {
                self.set_rate(byte);
                self.answer(&[ACK]);
            }
            0 => self.execute(byte),
            pending if byte >= command::SCALING_1_1 => {
                // A command where an argument is due begins anew.
                let _ = pending;
                self.execute(byte);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    /// The knock: 200, 100, 80 unlocks the wheel, then 200, 200, 80 the side buttons.
    fn set_rate(&mut self, rate: u8) {
        self.rate = rate;
        match (self.id, self.knock, rate) {
            (0, [100, 200], 80) => self.id = 3,
            (3, [200, 200], 80) => self.id = 4,
            _ => {}
        }
        self.knock = [rate, self.knock[0]];
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            command::SCALING_1_1 => self.scaling = 0,
            command::SCALING_2_1 => self.scaling = 1,
            command::RESOLUTION | command::RATE => self.command = byte,
            command::STATUS => {
                // Left is bit 2 here and right bit 0, the other way round than in a packet.
                let buttons = (self.buttons & 1) << 2 | (self.buttons & 4) >> 1 | (self.buttons & 2) >> 1;
                let status = self.remote << 6 | self.enabled << 5 | self.scaling << 4 | buttons;
                let answer = [ACK, status, self.resolution, self.rate];
                self.answer(&answer);
                return;
            }
            command::STREAM => self.remote = 0,
            command::READ => {
                self.answer(&[ACK]);
                self.packet();
                return;
            }
            command::UNWRAP => self.wrap = 0,
            command::WRAP => self.wrap = 1,
            command::REMOTE => self.remote = 1,
            command::IDENTIFY => {
                let answer = [ACK, self.id];
                self.answer(&answer);
                return;
            }
            command::ENABLE => self.enabled = 1,
            command::DISABLE => self.enabled = 0,
            command::DEFAULTS => self.defaults(),
            command::RESEND => {
                let (last, len) = (self.last, usize::from(self.last_len));
                self.queue.push(last.get(..len).unwrap_or_default(), QUEUE_LIMIT);
                return;
            }
            command::RESET => {
                let buttons = self.buttons;
                *self = MouseState { buttons, reported: buttons, ..MouseState::new() };
                self.answer(&[ACK, PASSED, self.id]);
                return;
            }
            _ => {
                self.answer(&[RESEND]);
                return;
            }
        }
        self.answer(&[ACK]);
    }

    /// The user moved the mouse (down and right positive) or changed its buttons.
    pub fn moved(&mut self, dx: i16, dy: i16, dz: i8, buttons: u8) {
        let add = |sum: i32, d: i32| (sum + d).clamp(-MOTION_MAX, MOTION_MAX);
        self.dx = add(self.dx, dx.into());
        self.dy = add(self.dy, -i32::from(dy));
        self.dz = add(self.dz, dz.into());
        self.buttons = buttons & 0x1f;
        if self.enabled == 0 || self.remote == 1 {
            // Nobody asked: only a remote mode program will, and for no more than the counters hold.
            if self.remote == 0 {
                (self.dx, self.dy, self.dz) = (0, 0, 0);
            }
            return;
        }
        self.report();
    }

    /// Stream mode: queues a packet when there is something to say and the host has read most of the last ones.
    fn report(&mut self) {
        let mask = if self.id == 4 { 0x1f } else { 0x07 };
        let motion = self.dx != 0 || self.dy != 0 || (self.id != 0 && self.dz != 0);
        let news = motion || (self.buttons ^ self.reported) & mask != 0;
        if self.enabled == 1
            && self.remote == 0
            && self.wrap == 0
            && news
            && usize::from(self.queue.len) <= PACKETS_LIMIT
        {
            self.packet();
        }
    }

    /// Stream mode scaling (IBM reference, table "2:1 scaling").
    fn scale(&self, d: i32) -> i32 {
        if self.scaling == 0 || self.remote == 1 {
            return d;
        }
        let scaled = match d.abs() {
            0 => 0,
            1 | 2 => 1,
            3 => 3,
            4 => 6,
            5 => 9,
            more => more * 2,
        };
        scaled * d.signum()
    }

    /// Queues one packet and takes what it reports from the counters.
    fn packet(&mut self) {
        let part = |d: &mut i32, low: i32, high: i32| {
            let part = (*d).clamp(low, high);
            *d -= part;
            part
        };
        let reach = if self.scaling == 1 { 127 } else { 255 };
        let (dx, dy) = (part(&mut self.dx, -reach, reach), part(&mut self.dy, -reach, reach));
        let (dx, dy) = (self.scale(dx), self.scale(dy));
        let dz = if self.id == 4 { part(&mut self.dz, -8, 7) } else { part(&mut self.dz, -127, 127) };
        let signs = u8::from(dx < 0) << 4 | u8::from(dy < 0) << 5;
        let mut packet = [0x08 | signs | self.buttons & 7, dx as u8, dy as u8, 0];
        let len = match self.id {
            0 => 3,
            3 => {
                packet[3] = dz as u8;
                4
            }
            _ => {
                packet[3] = dz as u8 & 0x0f | (self.buttons & 0x18) << 1;
                4
            }
        };
        self.reported = self.buttons;
        self.answer(packet.get(..len).unwrap_or_default());
    }
}

impl Default for MouseState {
    fn default() -> Self {
        MouseState::new()
    }
}
