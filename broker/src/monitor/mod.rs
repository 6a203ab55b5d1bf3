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
/// In the place of the rest of an answer.
const TOO_LONG: &str = "(output too long)\r\n";

/// Where in an escape sequence of a terminal the input is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Started,
    /// Behind `ESC [` or `ESC O` (ECMA-48, 5.4): the first parameter so far.
    First(u16),
    /// The first parameter, with others behind it.
    More(u16),
    /// Behind `ESC [ [`: the last byte of a function key of Linux's console.
    Function,
}

/// What a keystroke asks for beyond editing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    None,
    Run(String),
}

/// Whether a character begins with this byte of UTF-8 (RFC 3629, section 3).
fn begins(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

/// One line being typed, with history.
#[derive(Debug, Default)]
struct Editor {
    /// UTF-8, if the terminal sends that.
    line: Vec<u8>,
    /// Where a character begins.
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
        let rest = self.line.get(self.cursor..).unwrap_or_default();
        let back = rest.iter().filter(|byte| begins(**byte)).count();
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

    /// Takes a printable byte of an escape sequence.
    fn escape(&mut self, byte: u8) {
        self.escape = match (self.escape, byte) {
            (Escape::Started, b'[' | b'O') => Escape::First(0),
            (Escape::First(0), b'[') => Escape::Function,
            (Escape::First(number), b'0'..=b'9') => {
                Escape::First(number.saturating_mul(10).saturating_add((byte - b'0').into()))
            }
            // Parameters and intermediate bytes: all that is not the final one.
            (Escape::First(number) | Escape::More(number), 0x20..=0x3f) => Escape::More(number),
            (Escape::First(number) | Escape::More(number), key) => {
                self.key(key, number);
                Escape::None
            }
            _ => Escape::None,
        };
    }

    /// A key that sends an escape sequence, by its final byte and its first parameter. Others say that Shift or Control was down.
    fn key(&mut self, key: u8, number: u16) {
        match (key, number) {
            (b'A', _) => self.browse(true),
            (b'B', _) => self.browse(false),
            (b'C', _) => self.cursor = self.after(),
            (b'D', _) => self.cursor = self.before(),
            (b'H', _) | (b'~', 1 | 7) => self.cursor = 0,
            (b'F', _) | (b'~', 4 | 8) => self.cursor = self.line.len(),
            (b'~', 3) => self.delete(),
            _ => {}
        }
    }

    /// Where the character before the cursor begins.
    fn before(&self) -> usize {
        let head = self.line.get(..self.cursor).unwrap_or_default();
        head.iter().rposition(|byte| begins(*byte)).unwrap_or(0)
    }

    /// Where the character at the cursor ends.
    fn after(&self) -> usize {
        let rest = self.line.get(self.cursor + 1..).unwrap_or_default();
        rest.iter().position(|byte| begins(*byte)).map_or(self.line.len(), |at| self.cursor + 1 + at)
    }

    /// Takes away the character at the cursor.
    fn delete(&mut self) {
        self.line.drain(self.cursor..self.after());
    }

    /// Feeds one byte from the terminal.
    fn feed(&mut self, byte: u8, out: &mut Vec<u8>) -> Action {
        if self.escape != Escape::None {
            if matches!(byte, 0x20..=0x7e) {
                self.escape(byte);
                self.redraw(out);
                return Action::None;
            }
            // A control character is no part of a sequence: it means what it always does, so that what a back end sends for its own
            // keys is not swallowed behind an Esc.
            self.escape = Escape::None;
        }
        match byte {
            b'\r' | b'\n' => {
                let line = std::mem::take(&mut self.line);
                self.cursor = 0;
                self.browsing = None;
                out.extend(b"\r\n");
                // A name in another encoding would be that of another file.
                let Ok(line) = str::from_utf8(&line).map(|line| line.trim().to_owned()) else {
                    out.extend(format!("\x07the line is not valid UTF-8\r\n{PROMPT}").bytes());
                    return Action::None;
                };
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
            0x02 => self.cursor = self.before(),
            0x06 => self.cursor = self.after(),
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
            0x04 => self.delete(),
            0x08 | 0x7f => {
                let start = self.before();
                self.line.drain(start..self.cursor);
                self.cursor = start;
            }
            b'\t' => self.complete(out),
            0x0c => {}
            0x20..=0x7e | 0x80..=0xff => {
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
        let Ok(text) = String::from_utf8(self.line.clone()) else { return };
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
    /// Number of its back end among the processes of the machine.
    pub process: usize,
    stream: Option<UnixStream>,
    keys: ByteEnd,
    editor: Editor,
    out: Vec<u8>,
}

impl Session {
    /// On a stream to a character back end and the link that brings its keys.
    pub fn new(process: usize, stream: UnixStream, keys: ByteEnd) -> Session {
        let _ = stream.set_nonblocking(true);
        let (editor, out) = (Editor::default(), Vec::new());
        let mut session = Session { process, stream: Some(stream), keys, editor, out };
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

    /// Whether its stream is of no use any more. Nobody has closed it, since the broker keeps the other end: the back end has shut it
    /// down, which only one does that was taken over, and for all that come after it.
    pub fn is_cut_off(&self) -> bool {
        self.stream.is_none()
    }

    /// Goes on over another stream.
    pub fn renew(&mut self, stream: UnixStream) {
        self.stream = Some(stream);
        self.flush();
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
                self.answer(&text);
                if vm.exit.is_some() {
                    break;
                }
                self.emit(PROMPT.as_bytes());
            }
        }
    }

    /// Shows the answer of a command; of one that is too long, the lines for which there is room beside the prompt.
    fn answer(&mut self, text: &str) {
        let text = text.replace('\n', "\r\n");
        let room = OUTPUT_MAX.saturating_sub(self.out.len() + PROMPT.len());
        if text.len() <= room {
            return self.emit(text.as_bytes());
        }
        let fits = text.as_bytes().get(..room.saturating_sub(TOO_LONG.len())).unwrap_or_default();
        let lines = fits.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.emit(fits.get(..lines).unwrap_or_default());
        self.emit(TOO_LONG.as_bytes());
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
    use bulkhead_bus::bell::{BELL_BYTES, Bell};
    use bulkhead_bus::links::{BYTES_LINK, Side};
    use bulkhead_bus::sys::Mapping;

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
    fn what_a_key_of_the_multiplexer_sends_is_taken_behind_an_escape_that_leads_nowhere() {
        for escape in ["\x1b", "\x1b[", "\x1b[1", "\x1b[1;", "\x1bO", "half\x1b[[", "\x1b\x1b"] {
            let mut editor = Editor::default();
            let typed = format!("{escape}\x15quit\r");
            assert_eq!(type_in(&mut editor, &typed).as_deref(), Some("quit"), "{escape:?}");
        }
    }

    #[test]
    fn keys_without_a_meaning_leave_nothing_in_the_line() {
        let mut editor = Editor::default();
        // F1 on three kinds of terminal, F5, Page Up, Shift-F5, a report with an intermediate byte.
        let typed = "st\x1bOP\x1b[11~\x1b[[A\x1b[15~\x1b[5~\x1b[15;2~\x1b[?1;2$yop\r";
        assert_eq!(type_in(&mut editor, typed).as_deref(), Some("stop"));
        assert_eq!(
            type_in(&mut editor, "ab\x1b[1;5Dc\x1b[1;5Cd\x1b[1;5H\x1b[3;5~\r").as_deref(),
            Some("cbd")
        );
    }

    #[test]
    fn characters_beyond_ascii_are_edited_as_one() {
        let mut editor = Editor::default();
        assert_eq!(type_in(&mut editor, "größe\r").as_deref(), Some("größe"));
        let typed = "xöäü€\x7f\x1b[D\x1b[D\x1b[3~\x1b[C!\x02\x02\x06?\x01\x06\x04\r";
        assert_eq!(type_in(&mut editor, typed).as_deref(), Some("xü?!"));
        let mut out = Vec::new();
        assert_eq!(type_in(&mut editor, "aöü\x1b[D"), None);
        editor.redraw(&mut out);
        assert!(out.ends_with(b"\x1b[K\x1b[1D"), "{out:?}");
    }

    #[test]
    fn a_line_in_another_encoding_is_refused() {
        let mut editor = Editor::default();
        let mut out = Vec::new();
        for byte in *b"screendump gr\xf6\xdfe\t\r" {
            assert_eq!(editor.feed(byte, &mut out), Action::None);
        }
        let text = String::from_utf8_lossy(&out);
        assert!(text.ends_with("\r\n\x07the line is not valid UTF-8\r\n(qemu) "), "{text:?}");
        assert_eq!(type_in(&mut editor, "stop\r").as_deref(), Some("stop"));
    }

    #[test]
    fn tab_completes_commands_and_subcommands() {
        let mut editor = Editor::default();
        assert_eq!(type_in(&mut editor, "system_p\t\r").as_deref(), Some("system_powerdown"));
        assert_eq!(type_in(&mut editor, "info reg\t\r").as_deref(), Some("info registers"));
    }

    #[test]
    fn an_answer_that_is_too_long_loses_its_end_and_says_so() {
        let (stream, _user) = UnixStream::pair().expect("sockets for a test");
        let map = |bytes| Mapping::anonymous(bytes).expect("memory for a test");
        let keys = ByteEnd::new(map(BYTES_LINK), Bell::new(map(BELL_BYTES)).into(), Side::Host);
        let mut session = Session::new(0, stream, keys);
        let line = "0000000000000000: 0x00000000 0x00000000 0x00000000 0x00000000\n";
        session.answer(&line.repeat(25_000));
        session.emit(PROMPT.as_bytes());
        let shown = String::from_utf8_lossy(&session.out);
        assert!(shown.starts_with(line.trim_end()), "its beginning is there");
        assert!(shown.ends_with("0x00000000\r\n(output too long)\r\n(qemu) "), "a whole line is the last");
        assert!(shown.len() <= OUTPUT_MAX && OUTPUT_MAX - shown.len() < line.len() + 1);
        session.out.clear();
        session.answer(line);
        assert_eq!(session.out, line.replace('\n', "\r\n").as_bytes(), "one that fits is as it was");
    }
}
