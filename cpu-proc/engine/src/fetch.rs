//! Where instruction bytes come from while a block is lowered.

use crate::cache::Code;
use crate::guest::{CodeSource, Fault, Gpa, Machine};
use crate::mmu::{self, PAGE_SIZE, Place};
use crate::state::{Access, CoreState, exit};

/// Longest instruction of any guest.
const LONGEST: u64 = 15;

#[derive(Clone, Copy)]
enum Source {
    /// Host address of the page's first byte.
    Memory(*const u8),
    /// Physical address of the page's first byte.
    Device(*mut dyn Machine, Gpa),
    /// Fetching there faults.
    Fault,
    /// Not looked at.
    Unknown,
}

/// The page of the current pc and, when an instruction may reach it, the next one.
pub(crate) struct Fetcher {
    start: u64,
    first: Source,
    second: Source,
    /// With other CPUs around: the bytes from the start on as they are to be decoded, whoever writes them meanwhile.
    taken: Vec<u8>,
}

/// More bytes than a block has.
const TAKEN: u64 = 1024;

impl Fetcher {
    /// Looks up the pages at the current pc. A fault on the first is the guest's exception; one on the second is raised
    /// only when lowering asks for its bytes and fails.
    pub fn new(core: &mut CoreState) -> Result<Fetcher, Fault> {
        let start = (core.ops.linear_pc)(core, core.pc);
        let first = source(core, start)?;
        let mut fetcher = Fetcher { start, first, second: Source::Unknown, taken: Vec::new() };
        if fetcher.near_end() {
            let next = (start | (PAGE_SIZE - 1)).wrapping_add(1);
            fetcher.second = source(core, next).unwrap_or(Source::Fault);
            core.exit = exit::NONE;
        }
        if Code::of(core).is_some_and(|(code, _)| !code.is_sole())
            && let Source::Memory(page) = fetcher.first
        {
            let offset = start % PAGE_SIZE;
            fetcher.take(page, offset, (PAGE_SIZE - offset).min(TAKEN));
            if let Source::Memory(page) = fetcher.second {
                fetcher.take(page, 0, LONGEST);
            }
        }
        Ok(fetcher)
    }

    fn take(&mut self, page: *const u8, offset: u64, len: u64) {
        let (from, len) = (self.taken.len(), len as usize);
        self.taken.resize(from + len, 0);
        // SAFETY: inside a page of readable memory, whose bytes others may write meanwhile, and inside the vector.
        unsafe { page.add(offset as usize).copy_to_nonoverlapping(self.taken.as_mut_ptr().add(from), len) };
    }

    /// The first `len` bytes as they were decoded, if they were taken.
    pub fn taken(&self, len: usize) -> Option<&[u8]> {
        self.taken.get(..len)
    }

    /// What was taken from `addr` on. Linear addresses of narrower modes wrap at 4 GiB, and the front end may say so or not.
    fn taken_at(&self, addr: u64) -> Option<&[u8]> {
        let at = addr.wrapping_sub(self.start) & 0xffff_ffff;
        self.taken.get(at as usize..).filter(|rest| !rest.is_empty())
    }

    /// Whether an instruction at the start may reach into the next page.
    pub fn near_end(&self) -> bool {
        self.start % PAGE_SIZE > PAGE_SIZE - LONGEST
    }

    /// Host page behind the first, when it is memory.
    pub fn second_page(&self) -> Option<u64> {
        match self.second {
            Source::Memory(page) => Some(page as u64),
            _ => None,
        }
    }
}

fn source(core: &mut CoreState, linear: u64) -> Result<Source, Fault> {
    let offset = linear % PAGE_SIZE;
    Ok(match mmu::place(core, linear, 1, Access::Fetch, core.mmu_mode as usize & 1)? {
        Place::Host(p) | Place::Code(p) => Source::Memory((p as u64 - offset) as *const u8),
        Place::Device(gpa) => Source::Device(core.machine, gpa.wrapping_sub(offset)),
    })
}

impl CodeSource for Fetcher {
    fn bytes(&mut self, addr: u64, out: &mut [u8]) -> Result<usize, Fault> {
        if let Some(rest) = self.taken_at(addr) {
            let n = out.len().min(rest.len());
            out.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            return Ok(n);
        }
        let offset = (addr % PAGE_SIZE) as usize;
        if let Source::Memory(p) = self.first
            && addr & !(PAGE_SIZE - 1) == self.start & !(PAGE_SIZE - 1)
        {
            let n = out.len().min(PAGE_SIZE as usize - offset);
            // SAFETY: the page is 4 KiB of readable memory, and `out` is elsewhere.
            unsafe { p.add(offset).copy_to_nonoverlapping(out.as_mut_ptr(), n) };
            return Ok(n);
        }
        match out.first_mut() {
            Some(first) => {
                *first = self.byte(addr)?;
                Ok(1)
            }
            None => Ok(0),
        }
    }

    fn byte(&mut self, addr: u64) -> Result<u8, Fault> {
        if let Some(byte) = self.taken_at(addr).and_then(|rest| rest.first()) {
            return Ok(*byte);
        }
        let page = addr & !(PAGE_SIZE - 1);
        let source = if page == self.start & !(PAGE_SIZE - 1) {
            self.first
        } else {
            // Linear addresses of narrower modes wrap at 4 GiB, and the front end may say so or not.
            let next = (self.start | (PAGE_SIZE - 1)).wrapping_add(1);
            if page == next || page == next & 0xffff_ffff { self.second } else { Source::Fault }
        };
        let offset = (addr % PAGE_SIZE) as usize;
        match source {
            // SAFETY: the page is 4 KiB of readable memory.
            Source::Memory(p) => Ok(unsafe { p.add(offset).read() }),
            Source::Device(machine, gpa) => {
                // SAFETY: the CPU's machine, used by this thread only; no other reference is held while lowering.
                Ok(unsafe { (*machine).read(gpa.wrapping_add(offset as u64), 1) } as u8)
            }
            Source::Fault | Source::Unknown => Err(Fault),
        }
    }
}
