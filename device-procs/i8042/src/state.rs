//! The saved form of the controller, the keyboard and the mouse.

use bytemuck::{Pod, Zeroable};

/// Bytes that a queue can hold.
pub const QUEUE: usize = 128;

/// A first-in first-out queue of bytes, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Queue {
    /// The bytes; those from `len` on are zero.
    pub bytes: [u8; QUEUE],
    /// How many are waiting.
    pub len: u8,
}

impl Queue {
    /// An empty queue.
    pub const EMPTY: Queue = Queue { bytes: [0; QUEUE], len: 0 };

    /// Appends all of `bytes`, or nothing when they do not fit below `limit`.
    pub fn push(&mut self, bytes: &[u8], limit: usize) -> bool {
        let start = usize::from(self.len);
        let end = start + bytes.len();
        match self.bytes.get_mut(start..end) {
            Some(to) if end <= limit => {
                to.copy_from_slice(bytes);
                self.len = end as u8;
                true
            }
            _ => false,
        }
    }

    /// Takes the oldest byte.
    pub fn pop(&mut self) -> Option<u8> {
        let first = *self.bytes.first().filter(|_| self.len > 0)?;
        let len = usize::from(self.len).min(QUEUE);
        if let Some(used) = self.bytes.get_mut(..len) {
            used.rotate_left(1);
        }
        if let Some(last) = self.bytes.get_mut(len - 1) {
            *last = 0;
        }
        self.len = len as u8 - 1;
        Some(first)
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Queue::EMPTY;
    }

    pub(crate) fn is_valid(&self) -> bool {
        usize::from(self.len) <= QUEUE
    }
}

/// Keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct KeyboardState {
    /// Answers to commands, sent before key codes.
    pub answers: Queue,
    /// Key codes.
    pub keys: Queue,
    /// Command that waits for its argument, 0 for none.
    pub command: u8,
    /// Scan code set, 1 to 3.
    pub set: u8,
    /// 1: keys are reported.
    pub enabled: u8,
    /// Lights: 1 scroll lock, 2 number lock, 4 capitals lock.
    pub leds: u8,
    /// Typematic rate and delay.
    pub typematic: u8,
    /// Last of the commands 0xf7..=0xfa, which say whether set 3 reports releases; 0 for the power-on choice.
    pub releases: u8,
    /// Last byte sent, for RESEND.
    pub last: u8,
    /// Modifiers held: bit 0 shift, 1 control, 2 alternate.
    pub held: u8,
    /// Zero.
    pub padding: [u8; 2],
}

/// Mouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct MouseState {
    /// Motion not yet reported, right positive.
    pub dx: i32,
    /// Up positive.
    pub dy: i32,
    /// Wheel, away from the user negative.
    pub dz: i32,
    /// Answers and packets.
    pub queue: Queue,
    /// Command that waits for its argument, 0 for none.
    pub command: u8,
    /// Device id: 0 standard, 3 wheel, 4 wheel and five buttons.
    pub id: u8,
    /// Samples a second.
    pub rate: u8,
    /// The two rates set before, newest first (the knock that unlocks the wheel).
    pub knock: [u8; 2],
    /// Resolution, 0 to 3: 1, 2, 4, 8 counts a millimetre.
    pub resolution: u8,
    /// 1: scaling 2:1.
    pub scaling: u8,
    /// 1: remote mode, 0: stream mode.
    pub remote: u8,
    /// 1: wrap mode.
    pub wrap: u8,
    /// 1: reporting in stream mode.
    pub enabled: u8,
    /// Buttons now: bit 0 left, 1 right, 2 middle, 3 and 4 the side ones.
    pub buttons: u8,
    /// Buttons last reported.
    pub reported: u8,
    /// Last packet or answer, for RESEND.
    pub last: [u8; 4],
    /// Bytes of it.
    pub last_len: u8,
    /// Zero.
    pub padding: [u8; 2],
}

/// Controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ControllerState {
    /// Processor resets ever asked for, wrapping.
    pub resets: u32,
    /// Edges of IRQ 1 and IRQ 12 inside one transaction, wrapping.
    pub pulses: [u32; 2],
    /// Answers of the controller.
    pub answers: Queue,
    /// For each of them, 1 when it poses as the auxiliary device's.
    pub answers_aux: Queue,
    /// Command that waits for its argument, 0 for none.
    pub command: u8,
    /// Output buffer.
    pub output: u8,
    /// Its source: 0 empty, 1 keyboard or controller, 2 auxiliary device.
    pub source: u8,
    /// Output port, the bits that a program can set.
    pub port: u8,
    /// Status bit: the last write was a command.
    pub was_command: u8,
    /// 1: the translation has seen a release prefix.
    pub release: u8,
    /// Controller memory; byte 0 is the command byte.
    pub memory: [u8; 32],
}

/// Everything that a guest can observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct State {
    /// Controller.
    pub controller: ControllerState,
    /// Keyboard.
    pub keyboard: KeyboardState,
    /// Mouse.
    pub mouse: MouseState,
}
