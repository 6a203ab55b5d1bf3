//! Which instructions of a stopped process can be noticed by others: those that write to shared memory, and system calls. What lies between
//! two of them changes nothing that outlives the process, so to die anywhere there is the same death.

use std::collections::HashMap;

use iced_x86::{Code, Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register, UsedMemory};

/// Longest instruction in bytes.
const LONGEST: usize = 15;

/// What an instruction does outside its process.
#[derive(Clone, Debug)]
enum Effect {
    Nothing,
    Call,
    /// Writes here, if that is shared.
    Writes(Vec<UsedMemory>),
}

/// One process, stopped under `ptrace`.
pub struct Watch {
    pid: libc::pid_t,
    shared: Vec<std::ops::Range<u64>>,
    known: HashMap<u64, Effect>,
    factory: InstructionInfoFactory,
}

impl Watch {
    /// Of a process that has all the memory it will ever share.
    ///
    /// # Panics
    /// When its map cannot be read.
    pub fn new(pid: libc::pid_t) -> Watch {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the map of a child");
        let shared: Vec<_> = maps.lines().filter_map(shared_range).collect();
        assert!(!shared.is_empty(), "the process shares nothing:\n{maps}");
        Watch { pid, shared, known: HashMap::new(), factory: InstructionInfoFactory::new() }
    }

    /// Whether the next instruction can be noticed from outside. Also true of what is not known for certain.
    pub fn is_noticed(&mut self) -> bool {
        let regs = self.registers();
        let (pid, factory) = (self.pid, &mut self.factory);
        let effect = self.known.entry(regs.rip).or_insert_with(|| decode(pid, regs.rip, factory));
        let memory = match effect {
            Effect::Nothing => return false,
            Effect::Call => return true,
            Effect::Writes(memory) => memory,
        };
        memory.iter().any(|memory| {
            let from = memory.virtual_address(0, |register, _, _| value(&regs, register));
            let size = memory.memory_size().size().max(1) as u64;
            from.is_none_or(|from| {
                self.shared.iter().any(|range| from < range.end && from.wrapping_add(size) > range.start)
            })
        })
    }

    fn registers(&self) -> libc::user_regs_struct {
        // SAFETY: an empty set of registers is a valid value; the child is stopped under our trace.
        unsafe {
            let mut regs: libc::user_regs_struct = std::mem::zeroed();
            let result = libc::ptrace(libc::PTRACE_GETREGS, self.pid, 0usize, &raw mut regs);
            assert_eq!(result, 0, "registers: {}", std::io::Error::last_os_error());
            regs
        }
    }
}

/// The addresses of a line of `/proc/PID/maps` that others may see written. Source: `proc_pid_maps(5)`.
fn shared_range(line: &str) -> Option<std::ops::Range<u64>> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    fields.next()?.starts_with("rw-s").then_some(address(start)?..address(end)?)
}

fn decode(pid: libc::pid_t, rip: u64, factory: &mut InstructionInfoFactory) -> Effect {
    let mut bytes = [0u8; LONGEST];
    let own = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let theirs = libc::iovec { iov_base: rip as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: the buffer is as long as is said; addresses of the other process are the kernel's to check.
    let count = unsafe { libc::process_vm_readv(pid, &raw const own, 1, &raw const theirs, 1, 0) };
    let count = usize::try_from(count).expect("the code of a child");
    let insn = Decoder::with_ip(64, &bytes[..count], rip, DecoderOptions::NONE).decode();
    if matches!(insn.code(), Code::Syscall | Code::INVALID) {
        return Effect::Call;
    }
    let writes = |memory: &&UsedMemory| {
        !matches!(
            memory.access(),
            OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess
        )
    };
    let memory: Vec<_> = factory.info(&insn).used_memory().iter().filter(writes).copied().collect();
    if memory.is_empty() { Effect::Nothing } else { Effect::Writes(memory) }
}

/// A register that is part of an address. `None`: one that this does not know.
fn value(regs: &libc::user_regs_struct, register: Register) -> Option<u64> {
    Some(match register {
        Register::RAX => regs.rax,
        Register::RBX => regs.rbx,
        Register::RCX => regs.rcx,
        Register::RDX => regs.rdx,
        Register::RSI => regs.rsi,
        Register::RDI => regs.rdi,
        Register::RBP => regs.rbp,
        Register::RSP => regs.rsp,
        Register::R8 => regs.r8,
        Register::R9 => regs.r9,
        Register::R10 => regs.r10,
        Register::R11 => regs.r11,
        Register::R12 => regs.r12,
        Register::R13 => regs.r13,
        Register::R14 => regs.r14,
        Register::R15 => regs.r15,
        Register::FS => regs.fs_base,
        Register::GS => regs.gs_base,
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        _ => return None,
    })
}
