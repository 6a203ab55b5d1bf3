//! Options about the machine itself: type, CPUs, memory, boot order, identity, display and a few switches with
//! arguments.

use bulkhead_config::{DebugExit, Icount, LOG_ITEMS, Machine, RunAs, Target, Vga, check_boot_order};

use crate::draft::Draft;
use crate::error::Stop;
use crate::options::Given;
use crate::options::params::{Params, decimal, number, split_commas, uuid as parse_uuid};

/// Machine types, first one the default.
const MACHINES: &[(&str, &str, Machine)] =
    &[("pc", "Standard PC", Machine::Pc), ("isapc", "ISA-only PC", Machine::IsaPc)];

/// `-M`.
pub fn machine(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let text = given.text()?;
    if text == "?" {
        let lines = MACHINES.iter().map(|(name, title, machine)| {
            let default = if *machine == Machine::default() { " (default)" } else { "" };
            format!("{name:<10} {title}{default}\n")
        });
        return Err(Stop::Print(
            std::iter::once("Supported machines are:\n".to_owned()).chain(lines).collect(),
        ));
    }
    match MACHINES.iter().find(|(name, ..)| *name == text) {
        Some((.., machine)) => draft.config.machine = *machine,
        None => return Err(given.bad("unknown machine (-M ? for list)").into()),
    }
    Ok(())
}

/// `-smp`.
pub fn smp(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    match decimal(given.text()?, 1..=255) {
        Ok(cpus) => draft.config.cpus = cpus as u32,
        Err(reason) => return Err(given.bad(format!("number of CPUs: {reason}")).into()),
    }
    Ok(())
}

/// Largest guest memory in MiB: what page tables of the target reach (36 bits with PAE), and for 64 bits what fits
/// in the host's address space beside everything else.
fn max_megabytes(target: Target) -> u64 {
    match target {
        Target::I386 => 64 << 10,
        Target::X86_64 => 1 << 20,
    }
}

/// `-m megs[M|G]`; 0 means the default, as in QEMU.
pub fn memory(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let text = given.text()?;
    let (digits, unit) = if let Some(digits) = text.strip_suffix(['G', 'g']) {
        (digits, 1 << 10)
    } else {
        (text.strip_suffix(['M', 'm']).unwrap_or(text), 1)
    };
    let max = max_megabytes(draft.config.target);
    let megabytes = decimal(digits, 0..=u64::MAX)
        .map_err(|_| given.bad("not a memory size in megabytes (suffix M or G allowed)"))?
        .saturating_mul(unit);
    if megabytes > max {
        return Err(given.bad(format!("too much memory, at most {}G", max >> 10)).into());
    }
    draft.config.ram_bytes = if megabytes == 0 { 128 << 20 } else { megabytes << 20 };
    Ok(())
}

/// `-boot [a|c|d|n]`, up to three letters: the firmware's settings hold that many.
pub fn boot(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let order = given.text()?;
    check_boot_order(order).map_err(|why| given.bad(why))?;
    draft.config.boot = order.to_owned();
    Ok(())
}

/// `-name`.
pub fn name(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    draft.config.name = Some(given.text()?.to_owned());
    Ok(())
}

/// `-uuid`.
pub fn uuid(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let bytes = parse_uuid(given.text()?)
        .ok_or_else(|| given.bad("not a UUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"))?;
    draft.config.uuid = Some(bytes);
    Ok(())
}

/// `-vga`.
pub fn vga(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    draft.config.vga = match given.text()? {
        "std" => Vga::Std,
        "none" => Vga::None,
        "cirrus" | "vmware" => return Err(given.not_yet().into()),
        _ => return Err(given.bad("unknown VGA card: cirrus, std, vmware or none").into()),
    };
    Ok(())
}

/// `-vnc none`.
pub fn vnc(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    match given.text()? {
        "none" => draft.display_declined = true,
        "" => return Err(given.bad("no display: host:d, unix:path or none").into()),
        _ => return Err(given.not_yet().into()),
    }
    Ok(())
}

/// `-net none`.
pub fn net(_: &mut Draft, given: &Given) -> Result<(), Stop> {
    let text = given.text()?;
    match text.split(',').next().unwrap_or_default() {
        "none" if text == "none" => Ok(()),
        "none" => Err(given.bad("none takes no parameters").into()),
        "nic" | "user" | "channel" | "tap" | "socket" | "vde" | "dump" => Err(given.not_yet().into()),
        _ => {
            Err(given.bad("unknown network type: nic, user, channel, tap, socket, vde, dump or none").into())
        }
    }
}

/// `-echr`.
pub fn echr(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let value =
        number(given.text()?, 0..=255).map_err(|reason| given.bad(format!("character code: {reason}")))?;
    draft.config.escape_char = u8::try_from(value).unwrap_or(0x01);
    Ok(())
}

/// What there is to choose from, a line each.
fn listed(head: &str, choices: &[(&str, &str)]) -> Stop {
    let lines = choices.iter().map(|(name, help)| format!("{name:<10} {help}\n"));
    Stop::Print(std::iter::once(format!("{head}\n")).chain(lines).collect())
}

/// Timer alarms that there are.
const ALARMS: &[(&str, &str)] =
    &[("dynticks", "a timer of the host's kernel for the next deadline, none while nothing is due")];

/// `-clock method[,...]`: of those named, the first that there is. There is one, so nothing is to be kept.
pub fn clock(_: &mut Draft, given: &Given) -> Result<(), Stop> {
    let text = given.text()?;
    if text == "?" {
        return Err(listed("Available alarm timers, in order of precedence:", ALARMS));
    }
    match text.split(',').any(|name| ALARMS.iter().any(|(known, _)| *known == name)) {
        true => Ok(()),
        false => Err(given.bad("no such alarm timer (-clock ? for list)").into()),
    }
}

/// `-icount N|auto`.
pub fn icount(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    draft.config.icount = Some(match given.text()? {
        "auto" => Icount::Auto,
        text => {
            let shift = number(text, 0..=10).map_err(|reason| given.bad(format!("auto or N: {reason}")))?;
            Icount::Shift(u8::try_from(shift).unwrap_or(0))
        }
    });
    Ok(())
}

/// `-d item1[,...]`.
pub fn log(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let text = given.text()?;
    if text == "?" {
        return Err(listed("Log items (comma separated):", LOG_ITEMS));
    }
    let mut items = Vec::new();
    for item in text.split(',') {
        if item != "all" && !LOG_ITEMS.iter().any(|(known, _)| *known == item) {
            return Err(given.bad(format!("unknown log item \"{item}\" (-d ? for list)")).into());
        }
        items.push(item.to_owned());
    }
    draft.config.log_items = items;
    Ok(())
}

/// `-device isa-debug-exit[,iobase=N][,iosize=N]`, the spelling and the defaults of later QEMU versions.
pub fn device(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    const DRIVER: &str = "isa-debug-exit";
    let items = split_commas(given.value);
    let (driver, rest) = match items.split_first() {
        Some((driver, rest)) => (driver.to_string_lossy(), rest),
        None => ("".into(), [].as_slice()),
    };
    match &*driver {
        "?" => return Err(Stop::Print(format!("name \"{DRIVER}\", bus ISA\n"))),
        DRIVER => {}
        _ => return Err(given.bad(format!("unknown device \"{driver}\", only {DRIVER}")).into()),
    }
    let mut params = Params::new(given, rest, &["iobase", "iosize"])?;
    let iobase = params.number("iobase", 0..=0xffff)?.unwrap_or(0x501);
    let iosize = params.number("iosize", 1..=4)?.unwrap_or(2);
    if iobase + iosize > 0x1_0000 {
        return Err(given.bad("the ports end above 0xffff").into());
    }
    if draft.config.debug_exit.is_some() {
        return Err(given.bad(format!("only one {DRIVER}")).into());
    }
    draft.config.debug_exit = Some(DebugExit { iobase: iobase as u16, iosize: iosize as u16 });
    Ok(())
}

/// `-pidfile`.
pub fn pidfile(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    draft.config.pidfile = Some(given.path()?);
    Ok(())
}

/// `-chroot`.
pub fn chroot(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    draft.config.chroot = Some(given.path()?);
    Ok(())
}

/// `-runas`: a name, or two numbers.
pub fn run_as(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let text = given.text()?;
    // The highest number means "no change" to the kernel.
    let id = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u32>().ok().filter(|id| plain && *id != u32::MAX)
    };
    draft.config.run_as = Some(match text.split_once(':') {
        None if text.is_empty() => return Err(given.bad("a user expected").into()),
        None => RunAs::User(text.to_owned()),
        Some((user, group)) => match (id(user), id(group)) {
            (Some(user), Some(group)) => RunAs::Ids(user, group),
            _ => return Err(given.bad("neither a user nor uid:gid").into()),
        },
    });
    Ok(())
}

/// `-kernel`.
pub fn kernel(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    draft.config.kernel = Some(given.path()?);
    Ok(())
}

/// `-append`.
pub fn append(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    draft.config.append = given.text()?.to_owned();
    Ok(())
}

/// `-initrd`.
pub fn initrd(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    draft.config.initrd = Some(given.path()?);
    Ok(())
}
