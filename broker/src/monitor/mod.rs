//! The human monitor: a line editor on a byte stream, and the commands of the manual's chapter 3.5.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use bulkhead_bus::links::{BYTES_CAPACITY, ByteEnd};
use nix::poll::PollFlags;

use crate::vm::Vm;

pub(crate) mod commands;
mod counters;
mod disassembly;
mod expr;
mod info;
mod keys;
mod memory;

const PROMPT: &str = "(qemu) ";
const BANNER: &str = "QEMU 0.10.4 monitor - type 'help' for more information\r\n";
/// Longest command line.
const LINE_MAX: usize = 4096;
/// Lines remembered.
const HISTORY_MAX: usize = 64;
/// Output waiting for a slow client at most; the rest is dropped.
const OUTPUT_MAX: usize = 1 << 20;

/// Where in an escape sequence of a terminal the input is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Started,
    Bracket,
    Number(u8),
}

/// What a keystroke asks for beyond editing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    None,
    Run(String),
}

/// One line being typed, with history.
#[derive(Debug, Default)]
struct Editor {
    line: Vec<u8>,
    cursor: usize,
    history: Vec<String>,
    /// Position in the history while browsing it.
    browsing: Option<usize>,
    escape: Escape,
}

impl Editor {
    /// Redraws the line: back to column 0, prompt, text, clear the rest, cursor into place.
    fn redraw(&self, out: &mut Vec<u8>) {
        out.extend(b"\r");
        out.extend(PROMPT.as_bytes());
        out.extend(&self.line);
        out.extend(b"\x1b[K");
        let back = self.line.len() - self.cursor;
        if back > 0 {
            out.extend(format!("\x1b[{back}D").bytes());
        }
    }

    fn set(&mut self, text: &str) {
        self.line = text.bytes().take(LINE_MAX).collect();
        self.cursor = self.line.len();
    }

    fn browse(&mut self, older: bool) {
        let at = match (self.browsing, older) {
            (None, true) => self.history.len().checked_sub(1),
            (Some(at), true) => Some(at.saturating_sub(1)),
            (Some(at), false) => Some(at + 1).filter(|at| *at < self.history.len()),
            (None, false) => None,
        };
        self.browsing = at;
        let text = at.and_then(|at| self.history.get(at)).cloned().unwrap_or_default();
        self.set(&text);
    }

    fn escape(&mut self, byte: u8) {
        self.escape = match (self.escape, byte) {
            (Escape::Started, b'[' | b'O') => Escape::Bracket,
            (Escape::Bracket, b'0'..=b'9') => Escape::Number(byte),
            (Escape::Number(digit), b'~') => {
                match digit {
                    b'1' | b'7' => self.cursor = 0,
                    b'4' | b'8' => self.cursor = self.line.len(),
                    b'3' if self.cursor < self.line.len() => {
                        self.line.remove(self.cursor);
                    }
                    _ => {}
                }
                Escape::None
            }
            (Escape::Bracket, key) => {
                match key {
                    b'A' => self.browse(true),
                    b'B' => self.browse(false),
                    b'C' => self.cursor = (self.cursor + 1).min(self.line.len()),
                    b'D' => self.cursor = self.cursor.saturating_sub(1),
                    b'H' => self.cursor = 0,
                    b'F' => self.cursor = self.line.len(),
                    _ => {}
                }
                Escape::None
            }
            _ => Escape::None,
        };
    }

    /// Feeds one byte from the terminal.
    fn feed(&mut self, byte: u8, out: &mut Vec<u8>) -> Action {
        if self.escape != Escape::None {
            self.escape(byte);
            self.redraw(out);
            return Action::None;
        }
        match byte {
            b'\r' | b'\n' => {
                let line = String::from_utf8_lossy(&self.line).trim().to_owned();
                self.set("");
                self.browsing = None;
                out.extend(b"\r\n");
                if !line.is_empty() && self.history.last() != Some(&line) {
                    if self.history.len() >= HISTORY_MAX {
                        self.history.remove(0);
                    }
                    self.history.push(line.clone());
                }
                return Action::Run(line);
            }
            0x1b => self.escape = Escape::Started,
            0x01 => self.cursor = 0,
            0x05 => self.cursor = self.line.len(),
            0x02 => self.cursor = self.cursor.saturating_sub(1),
            0x06 => self.cursor = (self.cursor + 1).min(self.line.len()),
            0x0b => self.line.truncate(self.cursor),
            0x0e => self.browse(false),
            0x10 => self.browse(true),
            0x15 => self.set(""),
            0x17 => {
                let head = self.line.get(..self.cursor).unwrap_or_default();
                let kept = head.trim_ascii_end();
                let start = kept.iter().rposition(|b| *b == b' ').map_or(0, |at| at + 1);
                self.line.drain(start..self.cursor);
                self.cursor = start;
            }
            0x04 if self.cursor < self.line.len() => {
                self.line.remove(self.cursor);
            }
            0x08 | 0x7f => {
                if self.cursor > 0 {
                    self.cursor -= 1;
                    self.line.remove(self.cursor);
                }
            }
            b'\t' => self.complete(out),
            0x0c => {}
            0x20..=0x7e => {
                if self.line.len() < LINE_MAX {
                    self.line.insert(self.cursor, byte);
                    self.cursor += 1;
                    if self.cursor == self.line.len() {
                        out.push(byte);
                        return Action::None;
                    }
                }
            }
            _ => return Action::None,
        }
        if byte != 0x1b {
            self.redraw(out);
        }
        Action::None
    }

    /// Completes the command name, or lists the candidates.
    fn complete(&mut self, out: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(&self.line).into_owned();
        let candidates = commands::completions(&text);
        let (start, word) = match text.rsplit_once(' ') {
            Some((head, word)) => (head.len() + 1, word),
            None => (0, text.as_str()),
        };
        if let [only] = candidates.as_slice() {
            let whole = format!("{}{only} ", text.get(..start).unwrap_or_default());
            self.set(&whole);
        } else if candidates.len() > 1 {
            let mut common = candidates.first().cloned().unwrap_or_default().to_owned();
            for candidate in &candidates {
                while !candidate.starts_with(&common) {
                    common.pop();
                }
            }
            if common.len() > word.len() {
                let whole = format!("{}{common}", text.get(..start).unwrap_or_default());
                self.set(&whole);
            } else {
                out.extend(format!("\r\n{}\r\n", candidates.join(" ")).bytes());
            }
        }
    }
}

/// One monitor.
pub struct Session {
    stream: Option<UnixStream>,
    keys: ByteEnd,
    editor: Editor,
    out: Vec<u8>,
}

impl Session {
    /// On a stream to a character back end and the link that brings its keys.
    pub fn new(stream: UnixStream, keys: ByteEnd) -> Session {
        let _ = stream.set_nonblocking(true);
        let mut session = Session { stream: Some(stream), keys, editor: Editor::default(), out: Vec::new() };
        session.out.extend(BANNER.bytes());
        session.out.extend(PROMPT.bytes());
        session.flush();
        session
    }

    /// What the event loop is to wait for.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let stream = self.stream.as_ref()?;
        let output = if self.out.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        Some((stream.as_fd(), PollFlags::POLLIN | output))
    }

    /// Reads what came and runs the commands in it.
    pub fn serve(&mut self, vm: &mut Vm<'_>) {
        let mut bytes = [0u8; 512];
        match self.stream.as_mut().map(|stream| stream.read(&mut bytes)) {
            Some(Ok(1..)) => {}
            Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => {}
            _ => {
                self.stream = None;
                return;
            }
        }
        // What can have been waiting when that was said; later keys are announced again.
        for _ in 0..BYTES_CAPACITY as usize / bytes.len() {
            let count = self.keys.receive(&mut bytes);
            if count == 0 || vm.exit.is_some() {
                break;
            }
            self.typed(vm, bytes.get(..count).unwrap_or_default());
        }
        self.flush();
    }

    fn typed(&mut self, vm: &mut Vm<'_>, bytes: &[u8]) {
        for byte in bytes {
            let mut out = Vec::new();
            let action = self.editor.feed(*byte, &mut out);
            self.emit(&out);
            if let Action::Run(line) = action {
                let mut text = String::new();
                if !line.is_empty() {
                    commands::run(vm, &line, &self.editor.history, &mut text);
                }
                self.emit(text.replace('\n', "\r\n").as_bytes());
                if vm.exit.is_some() {
                    break;
                }
                self.emit(PROMPT.as_bytes());
            }
        }
    }

    fn emit(&mut self, bytes: &[u8]) {
        if self.out.len() + bytes.len() <= OUTPUT_MAX {
            self.out.extend(bytes);
        }
    }

    /// Writes as much as the client takes now.
    pub fn flush(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        while !self.out.is_empty() {
            match stream.write(&self.out) {
                Ok(count) => {
                    self.out.drain(..count);
                }
                Err(error) => {
                    if error.kind() != ErrorKind::WouldBlock {
                        self.stream = None;
                    }
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_in(editor: &mut Editor, text: &str) -> Option<String> {
        let mut out = Vec::new();
        text.bytes().fold(None, |last, byte| match editor.feed(byte, &mut out) {
            Action::Run(line) => Some(line),
            Action::None => last,
        })
    }

    #[test]
    fn backspace_and_cursor_keys_edit_inside_the_line() {
        let mut editor = Editor::default();
        assert_eq!(
            type_in(&mut editor, "inxo\x7f\x7ffo\x1b[D\x1b[D\x1b[D\x1b[C\x1b[C\x1b[C status\r").as_deref(),
            Some("info status")
        );
        assert_eq!(type_in(&mut editor, "tatus\x01s\r").as_deref(), Some("status"));
    }

    #[test]
    fn arrow_up_brings_back_earlier_lines() {
        let mut editor = Editor::default();
        type_in(&mut editor, "stop\rcont\r");
        assert_eq!(type_in(&mut editor, "\x1b[A\x1b[A\r").as_deref(), Some("stop"));
    }

    #[test]
    fn tab_completes_commands_and_subcommands() {
        let mut editor = Editor::default();
        assert_eq!(type_in(&mut editor, "system_p\t\r").as_deref(), Some("system_powerdown"));
        assert_eq!(type_in(&mut editor, "info reg\t\r").as_deref(), Some("info registers"));
    }
}
