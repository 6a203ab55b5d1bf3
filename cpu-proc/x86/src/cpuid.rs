//! CPU models and the `CPUID` instruction. Source: Intel SDM volume 2 `CPUID`; AMD "CPUID Specification" (25481).
//!
//! A model lists what the processor of that name has; what is advertised is that cut down to [`SUPPORTED`], so that a
//! guest never sees a feature that faults.
//!
//! `qemu64` and `qemu32` identify as AMD family 15 model 107 stepping 1. QEMU 0.10.4 said family 6 model 2, an Athlon
//! with long mode, which no processor is: guests then apply K7 work-arounds. The vendor stays AMD because guests
//! that see Intel isolate their page tables against a flaw that an emulator has not, at twice the cost of a system call.

use bulkhead_engine::ApicAccess;

use crate::helpers::fastcall::has_syscall;
use crate::state::Cpu;

/// Features by word: CPUID leaf 1 EDX, leaf 1 ECX, leaf 8000_0001 EDX, leaf 8000_0001 ECX.
pub type Features = [u32; 4];

/// The vendor string, in register order EBX EDX ECX.
pub type Vendor = &'static [u8; 12];
/// Intel.
pub const INTEL: Vendor = b"GenuineIntel";
/// AMD.
pub const AMD: Vendor = b"AuthenticAMD";

/// A CPU model of `-cpu`.
#[derive(Clone, Debug)]
pub struct Model {
    /// Name as given to `-cpu`.
    pub name: &'static str,
    /// Vendor.
    pub vendor: [u8; 12],
    /// Displayed family (extended family included).
    pub family: u32,
    /// Displayed model (extended model included).
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
    /// Highest basic leaf.
    pub level: u32,
    /// Highest extended leaf, 0 when there is none.
    pub xlevel: u32,
    /// What such a processor has.
    pub features: Features,
    /// Physical address bits.
    pub phys_bits: u32,
    /// Brand string, at most 48 bytes.
    pub brand: String,
}

impl Model {
    /// Whether Intel's registers and rules apply.
    pub fn is_intel(&self) -> bool {
        self.vendor == *INTEL
    }

    /// Whether AMD's do.
    pub fn is_amd(&self) -> bool {
        self.vendor == *AMD
    }

    /// Leaf 1 EAX, also in EDX after reset.
    pub fn signature(&self) -> u32 {
        let (base, extended) = if self.family > 15 { (15, self.family - 15) } else { (self.family, 0) };
        self.stepping & 15
            | (self.model & 15) << 4
            | base << 8
            | (self.model >> 4 & 15) << 16
            | (extended & 0xff) << 20
    }
}

const NAMES_EDX: [&str; 32] = [
    "fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "", "sep", "mtrr", "pge", "mca",
    "cmov", "pat", "pse36", "pn", "clflush", "", "ds", "acpi", "mmx", "fxsr", "sse", "sse2", "ss", "ht",
    "tm", "ia64", "pbe",
];
const NAMES_ECX: [&str; 32] = [
    "pni",
    "pclmulqdq",
    "",
    "monitor",
    "ds_cpl",
    "vmx",
    "smx",
    "est",
    "tm2",
    "ssse3",
    "cid",
    "",
    "",
    "cx16",
    "xtpr",
    "pdcm",
    "",
    "",
    "dca",
    "sse4_1",
    "sse4_2",
    "",
    "",
    "popcnt",
    "tsc-deadline",
    "aes",
    "",
    "",
    "",
    "",
    "rdrand",
    "hypervisor",
];
const NAMES_EXT_EDX: [&str; 32] = [
    "", "", "", "", "", "", "", "", "", "", "", "syscall", "", "", "", "", "", "", "", "mp", "nx", "",
    "mmxext", "", "", "fxsr_opt", "pdpe1gb", "rdtscp", "", "lm", "3dnowext", "3dnow",
];
const NAMES_EXT_ECX: [&str; 32] = [
    "lahf_lm",
    "cmp_legacy",
    "svm",
    "extapic",
    "cr8legacy",
    "abm",
    "sse4a",
    "misalignsse",
    "3dnowprefetch",
    "osvw",
    "ibs",
    "",
    "skinit",
    "wdt",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
];
const ALIASES: [(&str, &str); 5] =
    [("sse3", "pni"), ("xd", "nx"), ("clfsh", "clflush"), ("sse4.1", "sse4_1"), ("sse4.2", "sse4_2")];

const fn edx(names: &[&str]) -> u32 {
    mask(&NAMES_EDX, names)
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// Bits of `names` in `table`; a name that is not in the table does not compile.
const fn mask(table: &[&str; 32], names: &[&str]) -> u32 {
    let mut bits = 0;
    let mut n = 0;
    while n < names.len() {
        let mut i = 0;
        while !same(table[i], names[n]) {
            i += 1;
        }
        bits |= 1 << i;
        n += 1;
    }
    bits
}

/// Leaf 8000_0001 EDX bits that AMD repeats from leaf 1, so that whoever asks there sees what was switched off or on here too.
const AMD_REPEATED: u32 = 0x0183_f3ff;

/// What this processor emulates.
pub const SUPPORTED: Features = [
    edx(&[
        "fpu", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge", "mca", "cmov",
        "pat", "pse36", "clflush", "mmx", "fxsr", "sse", "sse2", "ss", "vme",
    ]),
    mask(
        &NAMES_ECX,
        &[
            "pni",
            "ssse3",
            "sse4_1",
            "sse4_2",
            "cx16",
            "popcnt",
            "hypervisor",
            "pclmulqdq",
            "aes",
            "rdrand",
            "tsc-deadline",
            "monitor",
        ],
    ),
    AMD_REPEATED
        | mask(
            &NAMES_EXT_EDX,
            &["syscall", "nx", "rdtscp", "lm", "3dnow", "3dnowext", "mmxext", "fxsr_opt", "pdpe1gb"],
        ),
    mask(&NAMES_EXT_ECX, &["lahf_lm", "abm", "sse4a"]),
];

/// [`SUPPORTED`] without what this host's vector unit lacks: guest SIMD instructions run as the host's own.
pub fn available() -> Features {
    let mut features = SUPPORTED;
    #[cfg(target_arch = "x86_64")]
    {
        let absent = |present: bool, name: &str| if present { 0 } else { mask(&NAMES_ECX, &[name]) };
        features[1] &= !(absent(std::is_x86_feature_detected!("sse3"), "pni")
            | absent(std::is_x86_feature_detected!("ssse3"), "ssse3")
            | absent(std::is_x86_feature_detected!("sse4.1"), "sse4_1")
            | absent(std::is_x86_feature_detected!("sse4.2"), "sse4_2")
            | absent(std::is_x86_feature_detected!("pclmulqdq"), "pclmulqdq")
            | absent(std::is_x86_feature_detected!("aes"), "aes")
            | absent(std::is_x86_feature_detected!("rdrand"), "rdrand"));
    }
    features
}

const PENTIUM: u32 = edx(&["fpu", "de", "pse", "tsc", "msr", "mce", "cx8", "mmx"]);
const P2: u32 = PENTIUM | edx(&["pae", "sep", "mtrr", "pge", "mca", "cmov", "pat", "pse36", "fxsr"]);
const P3: u32 = P2 | edx(&["sse"]);
/// The set of a Pentium Pro class processor with SSE2 and a local APIC.
const PPRO: u32 = edx(&[
    "fpu", "de", "pse", "tsc", "msr", "mce", "cx8", "pge", "cmov", "pat", "fxsr", "mmx", "sse", "sse2",
    "pae", "sep", "apic",
]);
const MODERN: u32 = PPRO | edx(&["mtrr", "clflush", "mca", "pse36"]);
const VIRTUAL: u32 = mask(&NAMES_ECX, &["hypervisor"]);

const LONG: u32 = mask(&NAMES_EXT_EDX, &["lm", "syscall", "nx"]);

fn table() -> Vec<Model> {
    let row =
        |name, vendor: Vendor, fms: (u32, u32, u32), levels: (u32, u32), features, phys_bits, brand: &str| {
            Model {
                name,
                vendor: *vendor,
                family: fms.0,
                model: fms.1,
                stepping: fms.2,
                level: levels.0,
                xlevel: levels.1,
                features,
                phys_bits,
                brand: brand.to_owned(),
            }
        };
    let qemu = concat!("Bulkhead Virtual CPU version ", env!("CARGO_PKG_VERSION"));
    let amd_ext = |edx: u32, more: u32| edx & AMD_REPEATED | more;
    let pni = mask(&NAMES_ECX, &["pni"]);
    let core = pni | mask(&NAMES_ECX, &["monitor", "vmx", "est", "tm2", "xtpr", "pdcm"]);
    let core2 = core | mask(&NAMES_ECX, &["ssse3", "cx16", "ds_cpl"]);
    let intel_extra = edx(&["vme", "ds", "acpi", "ss", "ht", "tm", "pbe"]);
    vec![
        row(
            "qemu64",
            AMD,
            (15, 107, 1),
            (4, 0x8000_000a),
            [
                MODERN,
                pni | VIRTUAL | mask(&NAMES_ECX, &["cx16"]),
                amd_ext(MODERN, LONG),
                mask(&NAMES_EXT_ECX, &["lahf_lm", "svm"]),
            ],
            40,
            qemu,
        ),
        row(
            "phenom",
            AMD,
            (16, 2, 3),
            (5, 0x8000_001a),
            [
                MODERN | edx(&["vme", "ht"]),
                pni | mask(&NAMES_ECX, &["monitor", "cx16", "popcnt"]),
                amd_ext(
                    MODERN,
                    LONG | mask(
                        &NAMES_EXT_EDX,
                        &["3dnow", "3dnowext", "mmxext", "fxsr_opt", "pdpe1gb", "rdtscp"],
                    ),
                ),
                mask(
                    &NAMES_EXT_ECX,
                    &["lahf_lm", "svm", "extapic", "cr8legacy", "abm", "sse4a", "misalignsse"],
                ),
            ],
            48,
            "AMD Phenom(tm) 9550 Quad-Core Processor",
        ),
        row(
            "core2duo",
            INTEL,
            (6, 15, 11),
            (10, 0x8000_0008),
            [MODERN | intel_extra, core2, LONG, mask(&NAMES_EXT_ECX, &["lahf_lm"])],
            36,
            "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz",
        ),
        row(
            "kvm64",
            INTEL,
            (15, 6, 1),
            (5, 0x8000_0008),
            [MODERN, pni | VIRTUAL | mask(&NAMES_ECX, &["cx16"]), LONG, 0],
            40,
            "Common KVM processor",
        ),
        row("qemu32", AMD, (15, 107, 1), (4, 0x8000_0004), [MODERN, pni | VIRTUAL, 0, 0], 36, qemu),
        row(
            "coreduo",
            INTEL,
            (6, 14, 8),
            (10, 0x8000_0008),
            [MODERN | intel_extra, core, mask(&NAMES_EXT_EDX, &["nx"]), 0],
            32,
            "Genuine Intel(R) CPU           T2600  @ 2.16GHz",
        ),
        row("486", INTEL, (4, 0, 0), (1, 0), [edx(&["fpu"]), 0, 0, 0], 32, ""),
        row("pentium", INTEL, (5, 4, 3), (1, 0), [PENTIUM, 0, 0, 0], 32, ""),
        row("pentium2", INTEL, (6, 5, 2), (2, 0), [P2, 0, 0, 0], 36, ""),
        row("pentium3", INTEL, (6, 7, 3), (2, 0), [P3, 0, 0, 0], 36, ""),
        row(
            "athlon",
            AMD,
            (6, 2, 3),
            (2, 0x8000_0008),
            [
                PPRO | edx(&["pse36", "vme", "mtrr", "mca"]),
                0,
                amd_ext(PPRO, mask(&NAMES_EXT_EDX, &["mmxext", "3dnow", "3dnowext"])),
                0,
            ],
            36,
            qemu,
        ),
        row(
            "n270",
            INTEL,
            (6, 28, 2),
            (5, 0x8000_000a),
            [
                MODERN | intel_extra,
                pni | mask(&NAMES_ECX, &["monitor", "ssse3", "est", "tm2", "xtpr", "ds_cpl"]),
                mask(&NAMES_EXT_EDX, &["nx"]),
                mask(&NAMES_EXT_ECX, &["lahf_lm"]),
            ],
            32,
            "Intel(R) Atom(TM) CPU N270   @ 1.60GHz",
        ),
        row("max", AMD, (15, 107, 1), (0xb, 0x8000_000a), SUPPORTED, 40, qemu),
    ]
}

/// All models.
pub fn models() -> &'static [Model] {
    static MODELS: std::sync::OnceLock<Vec<Model>> = std::sync::OnceLock::new();
    MODELS.get_or_init(table)
}

/// A parsed `-cpu` argument.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The model, with the argument's overrides.
    pub model: &'static Model,
    /// What is advertised.
    pub features: Features,
    /// One line each for what was asked and is not there.
    pub warnings: Vec<String>,
}

impl Choice {
    /// Whether the timer of the local APIC can wait for a time of the time-stamp counter.
    pub fn has_tsc_deadline(&self) -> bool {
        self.features[1] & mask(&NAMES_ECX, &["tsc-deadline"]) != 0
    }
}

/// Why a `-cpu` argument was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No such model.
    Model(String),
    /// Malformed `key=value` or feature.
    Option(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Model(name) => write!(f, "unable to find x86 CPU definition '{name}'"),
            Refused::Option(text) => write!(f, "bad CPU option '{text}'"),
        }
    }
}

impl std::error::Error for Refused {}

fn feature_bits(name: &str) -> Option<Features> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    let mut bits = [0; 4];
    let tables = [&NAMES_EDX, &NAMES_ECX, &NAMES_EXT_EDX, &NAMES_EXT_ECX];
    for (word, table) in bits.iter_mut().zip(tables) {
        if let Some(i) = table.iter().position(|n| !n.is_empty() && *n == name) {
            *word = 1 << i;
        }
    }
    (bits != [0; 4]).then_some(bits)
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Parses `NAME[,+feature|,-feature|,family=N|,model=N|,stepping=N|,xlevel=N|,vendor=12 letters|,model_id=text]...`.
pub fn parse(spec: &str) -> Result<Choice, Refused> {
    let mut parts = spec.split(',');
    let name = parts.next().unwrap_or("");
    let found = models().iter().find(|m| m.name == name);
    let available = available();
    let mut model = found.ok_or_else(|| Refused::Model(name.to_owned()))?.clone();
    let mut changed = false;
    let mut warnings = Vec::new();
    for part in parts {
        let bad = || Refused::Option(part.to_owned());
        if let Some(feature) = part.strip_prefix('+') {
            match feature_bits(feature) {
                None => warnings.push(format!("CPU feature {feature} not found")),
                Some(bits) => {
                    if bits.iter().zip(available).any(|(b, s)| b & !s != 0) {
                        warnings.push(format!("CPU feature {feature} is not emulated"));
                    }
                    model.features.iter_mut().zip(bits).for_each(|(f, b)| *f |= b);
                }
            }
        } else if let Some(feature) = part.strip_prefix('-') {
            match feature_bits(feature) {
                None => warnings.push(format!("CPU feature {feature} not found")),
                Some(bits) => model.features.iter_mut().zip(bits).for_each(|(f, b)| *f &= !b),
            }
        } else {
            let (key, value) = part.split_once('=').ok_or_else(bad)?;
            match key {
                "family" => model.family = number(value).filter(|n| *n <= 270).ok_or_else(bad)?,
                "model" => model.model = number(value).filter(|n| *n <= 255).ok_or_else(bad)?,
                "stepping" => model.stepping = number(value).filter(|n| *n <= 15).ok_or_else(bad)?,
                "xlevel" => {
                    let n = number(value).ok_or_else(bad)?;
                    model.xlevel = if n < 0x8000_0000 { n.wrapping_add(0x8000_0000) } else { n };
                }
                "vendor" => model.vendor = value.as_bytes().try_into().map_err(|_| bad())?,
                "model_id" => model.brand = value.to_owned(),
                _ => return Err(bad()),
            }
        }
        changed = true;
    }
    let mut features = model.features;
    features.iter_mut().zip(available).for_each(|(f, s)| *f &= s);
    if model.is_amd() {
        features[2] = features[2] & !AMD_REPEATED | features[0] & AMD_REPEATED;
    }
    // One CPU definition a process, made at start: kept for its life.
    let model: &'static Model = match found {
        Some(found) if !changed => found,
        _ => Box::leak(Box::new(model)),
    };
    Ok(Choice { model, features, warnings })
}

fn word(bytes: &[u8], at: usize) -> u32 {
    (0..4).fold(0, |v, i| v | u32::from(bytes.get(at + i).copied().unwrap_or(0)) << (8 * i))
}

/// EAX, EBX, ECX, EDX of `CPUID` leaf `leaf`, subleaf `subleaf`.
pub fn leaf(cpu: &mut Cpu, leaf: u32, subleaf: u32) -> [u32; 4] {
    let model = cpu.model;
    let vendor = [word(&model.vendor, 0), word(&model.vendor, 4), word(&model.vendor, 8)];
    let extended = leaf & 0x8000_0000 != 0;
    let top = if extended { model.xlevel } else { model.level };
    let leaf = match (leaf > top, model.is_intel()) {
        (false, _) => leaf,
        // Intel answers leaves that do not exist with the highest basic one, AMD with zeros.
        (true, true) => model.level,
        (true, false) => return [0; 4],
    };
    let [mut edx, ecx, ext_edx, ext_ecx] = cpu.features;
    let apic_on = cpu.machine().apic(ApicAccess::ReadBase) & 1 << 11 != 0;
    if !apic_on {
        edx &= !(1 << 9);
    }
    match leaf {
        0 => [model.level, vendor[0], vendor[2], vendor[1]],
        1 => {
            let line = if edx & 1 << 19 != 0 { 8 << 8 } else { 0 };
            [model.signature(), cpu.apic_id << 24 | line, ecx, edx]
        }
        // 32 KiB L1 instruction and data caches, 2 MiB L2.
        2 if model.is_intel() => [1, 0, 0, 0x002c_307d],
        4 if model.is_intel() => match subleaf {
            // Type, level, self-initialising; ways 8, line 64; sets minus one.
            0 => [0x0000_0121, 0x01c0_003f, 0x3f, 1],
            1 => [0x0000_0122, 0x01c0_003f, 0x3f, 1],
            2 => [0x0000_0143, 0x03c0_003f, 0xfff, 1],
            _ => [0; 4],
        },
        // Monitored lines of 64 bytes; masked interrupts can end the wait; no sleep states beyond that of `HLT`.
        5 if ecx & 1 << 3 != 0 => [64, 64, 3, 0],
        // The place of the CPU: each is the only thread of the only core of its package, as QEMU has it unless told otherwise.
        // Bits of the APIC id below the next level, how many there are at this level, its number and type.
        0xb => {
            let (count, kind) = match subleaf {
                0 => (1, 1 << 8),
                1 => (1, 2 << 8),
                _ => (0, 0),
            };
            [0, count, kind | subleaf & 0xff, cpu.apic_id]
        }
        0x8000_0000 => [model.xlevel, vendor[0], vendor[2], vendor[1]],
        0x8000_0001 => {
            let mut extended = ext_edx;
            if !apic_on {
                extended &= !(1 << 9);
            }
            if !has_syscall(cpu) {
                extended &= !(1 << 11);
            }
            [model.signature(), 0, ext_ecx, extended]
        }
        0x8000_0002..=0x8000_0004 => {
            let at = (leaf - 0x8000_0002) as usize * 16;
            let brand = model.brand.as_bytes();
            [0, 4, 8, 12].map(|i| word(brand, at + i))
        }
        // TLB and L1: 255 entries each, 64 KiB 2-way, line 64.
        0x8000_0005 if model.is_amd() => [0x01ff_01ff, 0x01ff_01ff, 0x4002_0140, 0x4002_0140],
        // 512 KiB 16-way L2.
        0x8000_0006 => [0, 0x4200_4200, 0x0200_8140, 0],
        0x8000_0008 => {
            let linear = if ext_edx & 1 << 29 != 0 { 48 } else { 32 };
            [linear << 8 | model.phys_bits, 0, 0, 0]
        }
        _ => [0; 4],
    }
}
