//! The command table.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_bus::chip::Control;
use bulkhead_bus::mailbox::MailboxError;
use bulkhead_bus::messages::ToCpu;
use bulkhead_config::{LOG_ITEMS, check_boot_order};

use super::{info, keys, memory};
use crate::fail::reason;
use crate::firmware::cmos;
use crate::machines::standard::VRAM_BYTES;
use crate::vm::Vm;

/// `Err` is a line for the user.
pub type Outcome = Result<(), String>;
/// More was typed than a command takes.
pub const EXTRANEOUS: &str = "extraneous characters at the end of line";

/// What a command gets.
struct Call<'a, 'v, 'c> {
    vm: &'a mut Vm<'v>,
    args: &'c str,
    history: &'c [String],
    out: &'a mut String,
}

/// One command.
struct Command {
    names: &'static [&'static str],
    args: &'static str,
    help: &'static str,
    /// The arguments are words, at most as many as in `args`; expressions have blanks inside, and whoever evaluates them sees their end.
    words: bool,
    run: Option<fn(Call<'_, '_, '_>) -> Outcome>,
}

const fn command(
    names: &'static [&'static str],
    args: &'static str,
    help: &'static str,
    run: fn(Call<'_, '_, '_>) -> Outcome,
) -> Command {
    Command { names, args, help, words: true, run: Some(run) }
}

const fn numeric(
    names: &'static [&'static str],
    args: &'static str,
    help: &'static str,
    run: fn(Call<'_, '_, '_>) -> Outcome,
) -> Command {
    Command { names, args, help, words: false, run: Some(run) }
}

const fn unbuilt(names: &'static [&'static str], args: &'static str, help: &'static str) -> Command {
    Command { names, args, help, words: false, run: None }
}

/// How long a device may take for all that a command asks of it: meanwhile nothing else of the machine is attended to.
const DEVICE_LIMIT: Duration = Duration::from_secs(2);
/// The same for a picture, which comes in many parts.
const SCREEN_LIMIT: Duration = Duration::from_secs(5);

/// Every command of the manual.
const COMMANDS: &[Command] = &[
    command(&["help", "?"], "[cmd]", "show the help", help),
    unbuilt(
        &["commit"],
        "device|all",
        "commit changes to the disk images (if -snapshot is used) or backing files",
    ),
    command(&["info"], "subcommand [pattern]", "show various information about the system state", |call| {
        info::run(call.vm, call.args, call.history, call.out)
    }),
    command(&["q", "quit"], "", "quit the emulator", |call| {
        call.vm.exit = Some(0);
        Ok(())
    }),
    unbuilt(&["eject"], "[-f] device", "eject a removable medium (use -f to force it)"),
    unbuilt(&["change"], "device filename [format]", "change a removable medium, optional format"),
    unbuilt(&["acl"], "<command> <aclname> [<match> [<index>]]", "acl show|policy|allow|deny|remove|reset"),
    command(&["screendump"], "filename", "save screen into PPM image 'filename'", screendump),
    command(&["logfile"], "filename", "output logs to 'filename'", |call| {
        let name = word(call.args).ok_or("file name expected")?;
        call.vm.set_log_file(Path::new(&name))
    }),
    command(&["log"], "item1[,...]", "activate logging of the specified items to '/tmp/qemu.log'", log),
    unbuilt(
        &["savevm"],
        "tag|id",
        "save a VM snapshot. If no tag or id are provided, a new snapshot is created",
    ),
    unbuilt(&["loadvm"], "tag|id", "restore a VM snapshot from its tag or id"),
    unbuilt(&["delvm"], "tag|id", "delete a VM snapshot from its tag or id"),
    command(
        &["singlestep"],
        "[on|off]",
        "run emulation in singlestep mode or switch to normal mode",
        |call| {
            let on = match word(call.args).as_deref() {
                None | Some("on") => true,
                Some("off") => false,
                Some(other) => return Err(format!("unexpected option {other}")),
            };
            call.vm.tree.cpu.send(&ToCpu::SingleStep(on));
            Ok(())
        },
    ),
    command(&["stop"], "", "stop emulation", |call| {
        if call.vm.stop() {
            Ok(())
        } else {
            Err("the CPUs do not stand yet; they stop when they can".to_owned())
        }
    }),
    command(&["c", "cont"], "", "resume emulation", |call| {
        call.vm.cont();
        Ok(())
    }),
    unbuilt(&["gdbserver"], "[port]", "start gdbserver session (default port=1234)"),
    numeric(&["x"], "/fmt addr", "virtual memory dump starting at 'addr'", |call| {
        memory::dump(call.vm, call.args, true, call.out)
    }),
    numeric(&["xp"], "/fmt addr", "physical memory dump starting at 'addr'", |call| {
        memory::dump(call.vm, call.args, false, call.out)
    }),
    numeric(
        &["p", "print"],
        "/fmt expr",
        "print expression value (use $reg for CPU register access)",
        |call| memory::print(call.vm, call.args, call.out),
    ),
    unbuilt(&["i"], "/fmt addr", "I/O port read"),
    command(&["sendkey"], "keys", "send keys to the VM (e.g. 'sendkey ctrl-alt-f1')", sendkey),
    command(&["system_reset"], "", "reset the system", |call| {
        call.vm.reset();
        Ok(())
    }),
    command(&["system_powerdown"], "", "send system power down event", |call| {
        call.vm.tree.cpu.send(&ToCpu::PowerButton);
        Ok(())
    }),
    numeric(&["sum"], "addr size", "compute the checksum of a memory region", |call| {
        memory::sum(call.vm, call.args, call.out)
    }),
    unbuilt(&["usb_add"], "device", "add USB device (e.g. 'host:bus.addr' or 'host:vendor_id:product_id')"),
    unbuilt(&["usb_del"], "device", "remove USB device 'bus.addr'"),
    numeric(&["cpu"], "index", "set the default CPU", |call| {
        call.vm.cpu = cpu_index(call.vm, call.args)?;
        Ok(())
    }),
    command(&["mouse_move"], "dx dy [dz]", "send mouse move events", mouse_move),
    numeric(&["mouse_button"], "state", "change mouse button state (1=L, 2=M, 4=R)", mouse_button),
    unbuilt(&["mouse_set"], "index", "set which mouse device receives events"),
    unbuilt(&["wavcapture"], "path [frequency bits channels]", "capture audio to a wave file"),
    unbuilt(&["stopcapture"], "capture index", "stop capture"),
    numeric(
        &["memsave"],
        "addr size file",
        "save to disk virtual memory dump starting at 'addr' of size 'size'",
        |call| memory::save(call.vm, call.args, true),
    ),
    numeric(
        &["pmemsave"],
        "addr size file",
        "save to disk physical memory dump starting at 'addr' of size 'size'",
        |call| memory::save(call.vm, call.args, false),
    ),
    command(&["boot_set"], "bootdevice", "define new values for the boot device list", boot_set),
    numeric(&["nmi"], "cpu", "inject an NMI on the given CPU", |call| {
        let cpu = cpu_index(call.vm, call.args)?;
        call.vm.tree.cpu.send(&ToCpu::Nmi(cpu));
        Ok(())
    }),
    unbuilt(&["migrate"], "[-d] uri", "migrate to URI (using -d to not wait for completion)"),
    unbuilt(&["migrate_cancel"], "", "cancel the current VM migration"),
    unbuilt(&["migrate_set_speed"], "value", "set maximum speed (in bytes) for migrations"),
    unbuilt(&["drive_add"], "pci_addr drive-options", "add drive to PCI storage controller"),
    unbuilt(&["pci_add"], "pci_addr nic|storage options", "hot-add PCI device"),
    unbuilt(&["pci_del"], "pci_addr", "hot remove PCI device"),
    unbuilt(&["host_net_add"], "tap|user|socket|vde|dump [options]", "add host VLAN client"),
    unbuilt(&["host_net_remove"], "vlan_id name", "remove host VLAN client"),
    unbuilt(&["set_link"], "name up|down", "change the link status of a network adapter"),
    command(
        &["device_kill"],
        "process",
        "kill a device or back-end process, which is then replaced (see info processes)",
        |call| {
            let name = word(call.args).ok_or("name of a process expected")?;
            call.vm.kill_process(&name)
        },
    ),
    command(
        &["device_restart"],
        "process",
        "replace a device or back-end process by one of the program now on disk (of that at the start where -chroot or -runas hide it)",
        |call| {
            let name = word(call.args).ok_or("name of a process expected")?;
            call.vm.restart_process(&name)
        },
    ),
    command(
        &["trace-event"],
        "name|pattern on|off",
        "switch trace events on or off (see info trace-events)",
        trace_event,
    ),
    unbuilt(&["balloon"], "target", "request VM to change its memory allocation (in MB)"),
];

/// The value of an expression and of nothing more.
fn number(vm: &mut Vm<'_>, text: &str) -> Result<u64, String> {
    match memory::arguments(vm, text, 1)? {
        (None, values, "") => Ok(values.first().copied().unwrap_or_default()),
        _ => Err(EXTRANEOUS.to_owned()),
    }
}

/// The CPU that the arguments name.
fn cpu_index(vm: &mut Vm<'_>, args: &str) -> Result<u32, String> {
    let index = u32::try_from(number(vm, args)?).ok();
    index.filter(|index| *index < vm.config.cpus).ok_or_else(|| "invalid CPU index".to_owned())
}

/// First word of `text`, with quotes taken off, and what follows it.
fn split_word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('"') {
        return Some(rest.split_once('"').unwrap_or((rest, "")));
    }
    (!text.is_empty()).then(|| text.split_once(char::is_whitespace).unwrap_or((text, "")))
}

/// First word of `text`, with quotes taken off.
pub fn word(text: &str) -> Option<String> {
    split_word(text).map(|(word, _)| word.to_owned())
}

/// How many words `text` has.
pub fn count_words(text: &str) -> usize {
    std::iter::successors(split_word(text), |(_, rest)| split_word(rest)).count()
}

/// Words that can stand where the line ends.
pub fn completions(line: &str) -> Vec<&'static str> {
    if let Some(topic) = line.strip_prefix("info ") {
        return info::TOPICS.iter().map(|t| t.name).filter(|name| name.starts_with(topic)).collect();
    }
    let prefix = line.strip_prefix("help ").unwrap_or(line);
    let names = COMMANDS.iter().flat_map(|command| command.names).copied();
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.names.contains(&name))
}

/// Runs one line.
pub fn run(vm: &mut Vm<'_>, line: &str, history: &[String], out: &mut String) {
    let end = line.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(line.len());
    let (name, args) = line.split_at(end);
    vm.tree.cpu.begin_command();
    let outcome = match find(name) {
        Some(command) if command.words && count_words(args) > count_words(command.args) => {
            Err(EXTRANEOUS.to_owned())
        }
        Some(Command { run: Some(run), .. }) => run(Call { vm, args, history, out: &mut *out }),
        Some(_) => Err(format!("{name}: not supported yet")),
        None => Err(format!("unknown command: '{name}'")),
    };
    if let Err(error) = outcome {
        out.push_str(&error);
        out.push('\n');
    }
}

fn help(call: Call<'_, '_, '_>) -> Outcome {
    match word(call.args) {
        Some(name) if name == "info" => info::list(call.out),
        Some(name) => match find(&name) {
            Some(command) => describe(command, call.out),
            None => return Err(format!("unknown command: '{name}'")),
        },
        None => COMMANDS.iter().for_each(|command| describe(command, call.out)),
    }
    Ok(())
}

fn describe(command: &Command, out: &mut String) {
    let mark = if command.run.is_some() { "" } else { " (not supported yet)" };
    let _ = writeln!(out, "{} {} -- {}{mark}", command.names.join("|"), command.args, command.help);
}

/// When a command that begins now has to be done with its device.
fn soon() -> Instant {
    Instant::now() + DEVICE_LIMIT
}

fn ask(vm: &mut Vm<'_>, device: &str, request: &Control, end: Instant) -> Result<Vec<u8>, String> {
    let handle = vm.tree.devices.iter_mut().find(|handle| handle.name == device);
    let handle = handle.ok_or_else(|| format!("this machine has no {device}"))?;
    if vm.keeper.is_dead(handle.process) {
        return Err(format!("{device}: given up, see info restarts"));
    }
    let left = end.saturating_duration_since(Instant::now());
    handle.mailbox.request(request, left).map_err(|error| match error {
        MailboxError::Refused(why) => format!("{device}: {}", crate::spawn::printable(why.as_bytes())),
        other => format!("{device}: {other}"),
    })
}

/// Most bytes of a picture: the mode with the most pixels has two in a byte of video memory, and a pixel of the file is three bytes.
const SCREEN_MAX: usize = VRAM_BYTES as usize * 2 * 3 + 64;

/// A picture that is fetched in pieces from ascending offsets.
fn picture(mut piece: impl FnMut(u32) -> Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
    let mut image = Vec::new();
    loop {
        let part = piece(image.len() as u32)?;
        if part.is_empty() {
            return Ok(image);
        }
        image.extend(part);
        if image.len() > SCREEN_MAX {
            return Err("vga: the picture is larger than any mode's".to_owned());
        }
    }
}

fn screendump(call: Call<'_, '_, '_>) -> Outcome {
    let name = word(call.args).ok_or("file name expected")?;
    let end = Instant::now() + SCREEN_LIMIT;
    let image = picture(|offset| ask(call.vm, "vga", &Control::Screen { offset }, end))?;
    let mut file = File::create(&name).map_err(|e| format!("could not open '{name}': {}", reason(&e)))?;
    file.write_all(&image).map_err(|e| format!("{name}: {}", reason(&e)))
}

fn log(call: Call<'_, '_, '_>) -> Outcome {
    let items = word(call.args).unwrap_or_default();
    if items == "none" {
        call.vm.tree.cpu.send(&ToCpu::Log(Vec::new()));
        return Ok(());
    }
    let items: Vec<String> = items.split(',').map(str::to_owned).collect();
    let known = |item: &String| item == "all" || LOG_ITEMS.iter().any(|(name, _)| name == item);
    if items.iter().all(known) {
        call.vm.need_log()?;
        call.vm.tree.cpu.send(&ToCpu::Log(items));
        return Ok(());
    }
    call.out.push_str("Log items (comma separated):\nnone       remove all logs\n");
    for (name, help) in LOG_ITEMS {
        let _ = writeln!(call.out, "{name:<10} {help}");
    }
    Ok(())
}

fn sendkey(call: Call<'_, '_, '_>) -> Outcome {
    let name = word(call.args).ok_or("keys expected, joined by '-'")?;
    let (codes, end) = (keys::parse(&name)?, soon());
    let mut press =
        |code: &u16, down, end| ask(call.vm, "i8042", &Control::Key { code: *code, down }, end).map(|_| ());
    let (mut outcome, mut tried) = (Ok(()), 0);
    while let (Ok(()), Some(code)) = (&outcome, codes.get(tried)) {
        outcome = press(code, true, end);
        tried += 1;
    }
    // Whatever became of the presses, no key stays down.
    let end = soon();
    for code in codes.iter().take(tried).rev() {
        let released = press(code, false, end);
        outcome = outcome.and(released);
    }
    outcome
}

fn mouse_move(call: Call<'_, '_, '_>) -> Outcome {
    let mut values = Vec::new();
    // Each word is an expression: of the whole line `1 -1` would be one.
    for text in call.args.split_whitespace() {
        values.push(number(call.vm, text)?.cast_signed());
    }
    let ([dx, dy] | [dx, dy, _]) = *values.as_slice() else { return Err("dx dy [dz] expected".to_owned()) };
    let dz = values.get(2).copied().unwrap_or(0).clamp(-127, 127) as i8;
    let limit = |value: i64| value.clamp(-32768, 32767) as i16;
    let buttons = call.vm.buttons;
    ask(call.vm, "i8042", &Control::Mouse { dx: limit(dx), dy: limit(dy), dz, buttons }, soon()).map(|_| ())
}

fn mouse_button(call: Call<'_, '_, '_>) -> Outcome {
    let state = u8::try_from(number(call.vm, call.args)?).map_err(|_| "state expected")?;
    // The command counts left, middle, right; the device left, right, middle.
    let buttons = (state & 1) | (state >> 1 & 2) | (state << 1 & 4);
    call.vm.buttons = buttons;
    ask(call.vm, "i8042", &Control::Mouse { dx: 0, dy: 0, dz: 0, buttons }, soon()).map(|_| ())
}

fn trace_event(call: Call<'_, '_, '_>) -> Outcome {
    let words: Vec<&str> = call.args.split_whitespace().collect();
    let [pattern, state] = words[..] else { return Err("name|pattern on|off expected".to_owned()) };
    let on = match state {
        "on" => true,
        "off" => false,
        _ => return Err(format!("on or off expected, not '{state}'")),
    };
    match call.vm.tree.tracing.set(pattern, on) {
        0 => Err(format!("trace event '{pattern}' does not exist")),
        _ => Ok(()),
    }
}

fn boot_set(call: Call<'_, '_, '_>) -> Outcome {
    let order = word(call.args).ok_or("boot device list expected")?;
    check_boot_order(&order)?;
    let bytes = cmos::boot_order(&order, call.vm.config.no_fd_bootchk);
    let request: Vec<u8> = bytes.iter().flat_map(|(at, value)| [*at, *value]).collect();
    ask(call.vm, "rtc", &Control::Configure(request), soon())?;
    let _ = writeln!(call.out, "boot device list now set to {order}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    use bulkhead_bus::bell::{BELL_BYTES, Bell};
    use bulkhead_bus::control::{REPLY, REPLY_STATUS, REQUEST, REQUEST_DATA, REQUEST_LEN};
    use bulkhead_bus::device::{CONTROL, DEVICE_BYTES};
    use bulkhead_bus::mailbox::Mailbox;
    use bulkhead_bus::sys::{self, Mapping};
    use bulkhead_bus::wire;
    use bulkhead_config::{MachineConfig, Target};
    use bulkhead_tests::Scratch;

    use super::*;
    use crate::rehearsal::{self, answer};
    use crate::tree::DeviceHandle;

    #[test]
    fn a_key_that_is_refused_leaves_no_other_one_down() {
        let config = MachineConfig::new("qemu", Target::X86_64);
        let (mut vm, _cpu) = rehearsal::machine(&config).expect("sockets for a test");
        let file = sys::memfd("keyboard", DEVICE_BYTES as u64).expect("memory for a test");
        let map = || Mapping::shared(file.as_fd(), DEVICE_BYTES, true).expect("memory for a test");
        let bell = Bell::new(Mapping::anonymous(BELL_BYTES).expect("memory for a test"));
        vm.tree.devices.push(DeviceHandle { name: "i8042", mailbox: Mailbox::new(map(), bell), process: 0 });
        let theirs = map();
        let keyboard = std::thread::spawn(move || {
            let word = |at| theirs.word(CONTROL + at);
            let mut heard = Vec::new();
            for number in 1..=4 {
                while word(REQUEST).load(Ordering::SeqCst) != number {
                    std::thread::yield_now();
                }
                let mut bytes = vec![0; word(REQUEST_LEN).load(Ordering::SeqCst) as usize];
                assert!(theirs.read(CONTROL + REQUEST_DATA, &mut bytes));
                let request = wire::decode(&bytes).expect("a request");
                let Control::Key { code, down } = request else { panic!("no key: {request:?}") };
                word(REPLY_STATUS).store(u32::from(number == 2), Ordering::SeqCst);
                sys::publish(word(REPLY), number);
                sys::futex_wake(word(REPLY));
                heard.push((code, down));
            }
            heard
        });
        let mut answer = |line: &str| answer(&mut vm, line);
        assert_eq!(answer("sendkey a 100"), "extraneous characters at the end of line\n", "nothing is sent");
        assert_eq!(answer("sendkey ctrl-alt-delete"), "i8042: \n", "it was refused");
        let heard = keyboard.join().expect("four requests");
        assert_eq!(heard, [(0x1d, true), (0x38, true), (0x38, false), (0x1d, false)]);
    }

    #[test]
    fn a_boot_order_is_refused_as_on_the_command_line() {
        let config = MachineConfig::new("qemu", Target::X86_64);
        let (mut vm, _cpu) = rehearsal::machine(&config).expect("sockets for a test");
        let mut answer = |line: &str| answer(&mut vm, line);
        assert_eq!(answer("boot_set aa"), "boot device 'a' given twice\n");
        assert_eq!(answer("boot_set x"), "invalid boot device 'x', only a, c, d, n\n");
        assert_eq!(answer("boot_set acdn"), "at most three boot devices\n");
        assert_eq!(answer("boot_set ad"), "this machine has no rtc\n", "it is taken");
    }

    #[test]
    fn an_nmi_goes_to_the_cpu_that_is_named_and_to_no_other() {
        let config = MachineConfig { cpus: 2, ..MachineConfig::new("qemu", Target::X86_64) };
        let (mut vm, mut cpu) = rehearsal::machine(&config).expect("sockets for a test");
        let mut answer = |line: &str| answer(&mut vm, line);
        assert_ne!(answer("nmi"), "");
        assert_eq!(answer("nmi 2"), "invalid CPU index\n");
        assert_eq!(answer("nmi 1"), "");
        let mut heard = [0; 64];
        let len = cpu.read(&mut heard).expect("it was written");
        assert_eq!(heard[..len], wire::encode(&ToCpu::Nmi(1)).expect("short"));
    }

    #[test]
    fn a_line_with_more_than_the_command_takes_is_refused() {
        let config = MachineConfig::new("qemu", Target::X86_64);
        let (mut vm, _cpu) = rehearsal::machine(&config).expect("sockets for a test");
        let mut answer = |line: &str| answer(&mut vm, line);
        for line in [
            "screendump my file.ppm",
            "screendump \"my file.ppm\" x",
            "quit now",
            "cont/2",
            "nmi 0 1",
            "cpu 0 x",
            "cpu /x 0",
            "info status now",
            "info trace-events a b",
            "help info block",
            "mouse_button 1 2",
            "mouse_move 1 2 3 4",
        ] {
            assert_eq!(answer(line), "extraneous characters at the end of line\n", "{line}");
        }
        assert_eq!(answer("screendump \"my file.ppm\""), "this machine has no vga\n");
        assert_eq!(answer("nmi 1 - 1 "), "");
        assert_eq!(answer("change ide1-cd0 a b c"), "change: not supported yet\n");
        assert_eq!(vm.exit, None);
    }

    #[test]
    fn what_the_mouse_does_is_told_by_expressions() {
        let config = MachineConfig::new("qemu", Target::X86_64);
        let (mut vm, _cpu) = rehearsal::machine(&config).expect("sockets for a test");
        let mut answer = |line: &str| answer(&mut vm, line);
        let taken = "this machine has no i8042\n";
        for line in ["mouse_button 0x4", "mouse_move 0x10 -1", "mouse_move 2*3 010 -1"] {
            assert_eq!(answer(line), taken, "{line}");
        }
        assert_eq!(answer("mouse_button 256"), "state expected\n");
        assert_eq!(answer("mouse_move 1"), "dx dy [dz] expected\n");
        assert_eq!(vm.buttons, 2, "the right one of the device");
    }

    #[test]
    fn no_command_name_is_used_twice() {
        let names: Vec<&str> = COMMANDS.iter().flat_map(|command| command.names).copied().collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
        }
    }

    #[test]
    fn a_picture_is_whole_or_an_error() {
        let of =
            |bytes: usize| picture(|offset| Ok(vec![0; bytes.saturating_sub(offset as usize).min(60 << 10)]));
        assert_eq!(of(0), Ok(Vec::new()));
        let largest = VRAM_BYTES as usize * 2 * 3;
        assert_eq!(of(largest).map(|image| image.len()), Ok(largest), "4 bits a pixel");
        assert_eq!(of(usize::MAX), Err("vga: the picture is larger than any mode's".to_owned()));
        assert_eq!(picture(|_| Err("gone".to_owned())), Err("gone".to_owned()));
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_refused_and_the_one_before_stays() {
        let config = MachineConfig::new("qemu", Target::X86_64);
        let (mut vm, _cpu) = rehearsal::machine(&config).expect("sockets for a test");
        let (log, mut written) = std::io::pipe().expect("a pipe for a test");
        vm.tree.log = log.into();
        let scratch = Scratch::new("logfile");
        let name = scratch.file("log");
        let mut answer = |line: &str| answer(&mut vm, line);
        assert_eq!(answer(&format!("logfile {name}")), "");
        assert!(Path::new(&name).exists(), "it is opened at once");
        let refused = "could not open '/no/such/log': no such file or directory\n";
        assert_eq!(answer("logfile /no/such/log"), refused);
        assert_eq!(answer("log int"), "");
        written.write_all(b"in the one before").expect("room");
        drop(written);
        vm.copy_log();
        assert_eq!(std::fs::read_to_string(&name).expect("it was made"), "in the one before");
    }

    #[test]
    fn an_unbuilt_command_is_marked_in_the_help() {
        let mut out = String::new();
        describe(find("savevm").expect("documented"), &mut out);
        assert!(out.ends_with("(not supported yet)\n"), "{out}");
    }

    #[test]
    fn a_quoted_word_keeps_its_blanks() {
        assert_eq!(word(" \"a b\" c").as_deref(), Some("a b"));
        assert_eq!(word("x y").as_deref(), Some("x"));
        assert_eq!(word("  "), None);
    }
}
