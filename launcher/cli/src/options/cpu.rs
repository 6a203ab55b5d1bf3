//! `-cpu`: model names and feature flags. What a model is, the CPU process knows; here only the names are
//! checked, and a test holds the two lists together.

use bulkhead_config::Target;

use crate::draft::Draft;
use crate::error::Stop;
use crate::options::Given;
use crate::options::params::number;

/// Model names and whether the model has long mode, which the 32-bit programs do not offer.
pub const MODELS: &[(&str, bool)] = &[
    ("qemu64", true),
    ("phenom", true),
    ("core2duo", true),
    ("kvm64", true),
    ("qemu32", false),
    ("coreduo", false),
    ("486", false),
    ("pentium", false),
    ("pentium2", false),
    ("pentium3", false),
    ("athlon", false),
    ("n270", false),
    ("max", false),
];

/// Feature flags that `+` and `-` take: the names of the CPUID bits as QEMU 0.10.4 and /proc/cpuinfo spell them,
/// leaves 1 (EDX, ECX) and 8000_0001h (EDX, ECX).
#[rustfmt::skip]
pub const FEATURES: &[&[&str]] = &[
    &[
        "fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge", "mca",
        "cmov", "pat", "pse36", "pn", "clflush", "clfsh", "ds", "acpi", "mmx", "fxsr", "sse", "sse2", "ss", "ht",
        "tm", "ia64", "pbe",
    ],
    &[
        "pni", "sse3", "monitor", "ds_cpl", "vmx", "smx", "est", "tm2", "ssse3", "cid", "cx16", "xtpr", "pdcm", "dca",
        "popcnt", "hypervisor", "sse4_1", "sse4.1", "sse4_2", "sse4.2", "pclmulqdq", "aes", "rdrand",
        "tsc-deadline",
    ],
    &["syscall", "mp", "nx", "xd", "mmxext", "fxsr_opt", "pdpe1gb", "rdtscp", "lm", "3dnowext", "3dnow"],
    &[
        "lahf_lm", "cmp_legacy", "svm", "extapic", "cr8legacy", "abm", "sse4a", "misalignsse", "3dnowprefetch", "osvw",
        "ibs", "skinit", "wdt",
    ],
];

/// Models that the programs for `target` offer.
fn models(target: Target) -> impl Iterator<Item = &'static str> {
    let long_mode = target == Target::X86_64;
    MODELS.iter().filter(move |(_, needs)| long_mode || !needs).map(|(name, _)| *name)
}

/// `-cpu model[,+feature][,-feature][,key=value]`, `-cpu ?`.
pub fn cpu(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let text = given.text()?;
    let target = draft.config.target;
    if text == "?" {
        return Err(Stop::Print(models(target).map(|name| format!("x86 {name:>16}\n")).collect()));
    }
    let mut items = text.split(',');
    let model = items.next().unwrap_or_default();
    if !models(target).any(|name| name == model) {
        let reason = if MODELS.iter().any(|(name, _)| *name == model) {
            format!("{model} is a 64-bit model, use qemu-system-x86_64")
        } else {
            format!("unknown CPU model \"{model}\" (-cpu ? for list)")
        };
        return Err(given.bad(reason).into());
    }
    for item in items {
        check_feature(item).map_err(|reason| given.bad(reason))?;
    }
    draft.config.cpu = text.to_owned();
    Ok(())
}

/// One item after the model. The ranges are those of CPUID leaf 1 EAX (Intel SDM vol. 2, CPUID): an extended family
/// adds up to 255 to 15, an extended model gives four more bits.
fn check_feature(item: &str) -> Result<(), String> {
    if let Some(name) = item.strip_prefix(['+', '-']) {
        let known = FEATURES.iter().any(|word| word.contains(&name));
        return if known { Ok(()) } else { Err(format!("unknown CPU feature \"{name}\"")) };
    }
    let Some((key, value)) = item.split_once('=') else {
        return Err(format!("\"{item}\" is not +feature, -feature or key=value"));
    };
    let range = match key {
        "family" => 0..=0xff + 0xf,
        "model" => 0..=0xff,
        "stepping" => 0..=0xf,
        "xlevel" => 0..=0x8000_ffff,
        "vendor" if value.len() == 12 && value.is_ascii() => return Ok(()),
        "vendor" => return Err(format!("vendor={value}: must be 12 ASCII characters")),
        "model_id" if value.len() <= 48 && value.is_ascii() => return Ok(()),
        "model_id" => return Err(format!("model_id={value}: must be at most 48 ASCII characters")),
        _ => return Err(format!("unknown CPU property \"{key}\"")),
    };
    number(value, range).map(drop).map_err(|reason| format!("{key}={value}: {reason}"))
}
