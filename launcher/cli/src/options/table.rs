//! The table. Order and syntax are those of chapter 3.3 of the QEMU 0.10.4 manual; `-device` and `-trace` are later QEMUs'.

use super::Action::{Flag, Help, NotYet, Value, Version};
use super::{Form, Group, Row};
use super::{chardev, cpu, date, drive, firmware, machine, numa, trace};

const fn works(syntax: &'static str, help: &'static str) -> Form {
    Form { syntax, help, supported: true }
}

const fn later(syntax: &'static str, help: &'static str) -> Form {
    Form { syntax, help, supported: false }
}

/// `row!(group, name, action, form, form...)`.
macro_rules! row {
    ($group:ident, $name:literal, $action:expr, $($form:expr),+) => {
        Row { name: $name, group: Group::$group, forms: &[$($form),+], action: $action }
    };
}

/// Every documented option, in the manual's order.
#[rustfmt::skip]
pub static OPTIONS: &[Row] = &[
    row!(Standard, "h", Help, works("", "display this help and exit")),
    row!(Standard, "version", Version, works("", "display version information and exit")),
    row!(Standard, "M", Value(machine::machine), works("machine", "select the emulated machine (-M ? for list)")),
    row!(Standard, "cpu", Value(cpu::cpu), works("model", "select the CPU model (-cpu ? for list), +feature and -feature after commas")),
    row!(Standard, "smp", Value(machine::smp), works("n", "number of CPUs, 1 to 255")),
    row!(Standard, "numa", Value(numa::numa), works("opts", "simulate a NUMA system; for each node: node[,mem=size][,cpus=first[-last]][,nodeid=n]")),
    row!(Standard, "fda", NotYet, later("file", "use file as floppy disk 0 image")),
    row!(Standard, "fdb", NotYet, later("file", "use file as floppy disk 1 image")),
    row!(Standard, "hda", Value(drive::hda), works("file", "use file as IDE hard disk 0 image")),
    row!(Standard, "hdb", Value(drive::hdb), works("file", "use file as IDE hard disk 1 image")),
    row!(Standard, "hdc", Value(drive::hdc), works("file", "use file as IDE hard disk 2 image")),
    row!(Standard, "hdd", Value(drive::hdd), works("file", "use file as IDE hard disk 3 image")),
    row!(Standard, "cdrom", Value(drive::cdrom), works("file", "use file as CD-ROM image (takes the place of hard disk 2)")),
    row!(Standard, "drive", Value(drive::drive), works("option[,option[,option[,...]]]", "define a drive: file=,if=ide,bus=,unit=,index=,media=,cyls=,heads=,secs=,trans=,snapshot=,cache=,format=raw,serial= (other interfaces and formats not supported yet)")),
    row!(Standard, "mtdblock", NotYet, later("file", "use file as on-board flash memory image")),
    row!(Standard, "sd", NotYet, later("file", "use file as SecureDigital card image")),
    row!(Standard, "pflash", NotYet, later("file", "use file as a parallel flash image")),
    row!(Standard, "boot", Value(machine::boot), works("[a|c|d|n]", "boot on floppy (a), hard disk (c), CD-ROM (d) or network (n); up to three letters")),
    row!(Standard, "snapshot", Flag(|draft| draft.config.snapshot = true), works("", "write to temporary files instead of disk image files")),
    row!(Standard, "m", Value(machine::memory), works("megs", "RAM size in megabytes, or with suffix M or G (default 128)")),
    row!(Standard, "k", NotYet, later("language", "use keyboard layout, for example fr (default en-us)")),
    row!(Standard, "audio-help", NotYet, later("", "list the audio drivers and their settings")),
    row!(Standard, "soundhw", NotYet, later("card1[,card2,...] or -soundhw all", "enable audio and these sound cards (-soundhw ? for list)")),

    row!(Usb, "usb", NotYet, later("", "enable the USB driver")),
    row!(Usb, "usbdevice", NotYet, later("devname", "add a USB device: mouse, tablet, disk:, host:, serial:, braille, net:")),
    row!(Usb, "name", Value(machine::name), works("name", "set the name of the guest")),
    row!(Usb, "uuid", Value(machine::uuid), works("uuid", "set the system UUID (xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx)")),

    row!(Display, "nographic", Flag(|draft| draft.config.nographic = true), works("", "no graphical output, serial port and monitor on the terminal")),
    row!(Display, "curses", NotYet, later("", "show the VGA text screen on the terminal")),
    row!(Display, "no-frame", NotYet, later("", "SDL window without decorations")),
    row!(Display, "alt-grab", NotYet, later("", "use Ctrl-Alt-Shift to grab the mouse instead of Ctrl-Alt")),
    row!(Display, "no-quit", NotYet, later("", "disable closing of the SDL window")),
    row!(Display, "sdl", NotYet, later("", "enable SDL")),
    row!(Display, "portrait", NotYet, later("", "rotate graphical output 90 degrees left (PXA LCD only)")),
    row!(Display, "vga", Value(machine::vga), works("type", "VGA card: std (default), none; cirrus, vmware (both not supported yet)")),
    row!(Display, "full-screen", NotYet, later("", "start in full screen")),
    row!(Display, "vnc", Value(machine::vnc), later("display[,option[,option[,...]]]", "show the VGA output over VNC"), works("none", "no VNC server")),

    row!(I386, "win2k-hack", Flag(|draft| draft.config.win2k_hack = true), works("", "slow disk writes that installing Windows 2000 needs")),
    row!(I386, "rtc-td-hack", Flag(|draft| draft.config.rtc_td_hack = true), works("", "re-inject timer ticks that the guest missed (Windows with ACPI HAL)")),
    row!(I386, "no-fd-bootchk", Flag(|draft| draft.config.no_fd_bootchk = true), works("", "boot floppy disks without a boot signature")),
    row!(I386, "no-acpi", Flag(|draft| draft.config.no_acpi = true), works("", "disable ACPI")),
    row!(I386, "no-hpet", Flag(|draft| draft.config.no_hpet = true), works("", "disable the HPET")),
    row!(I386, "acpitable", Value(firmware::acpi_table), works("[sig=str][,rev=n][,oem_id=str][,oem_table_id=str][,oem_rev=n] [,asl_compiler_id=str][,asl_compiler_rev=n][,data=file1[:file2]...]", "add an ACPI table with these header fields and the files as content")),
    row!(I386, "smbios", Value(firmware::smbios),
        works("file=binary", "load an SMBIOS entry from a file"),
        works("type=0[,vendor=str][,version=str][,date=str][,release=%d.%d]", "set SMBIOS type 0 fields"),
        works("type=1[,manufacturer=str][,product=str][,version=str][,serial=str][,uuid=uuid][,sku=str][,family=str]", "set SMBIOS type 1 fields")),

    row!(Network, "net", Value(machine::net),
        later("nic[,vlan=n][,macaddr=addr][,model=type][,name=name]", "create a network card and connect it to VLAN n"),
        later("user[,vlan=n][,hostname=name][,name=name]", "connect VLAN n to the user mode network stack"),
        later("channel,port:dev", "forward user TCP connections on port to a character device"),
        later("tap[,vlan=n][,name=name][,fd=h][,ifname=name][,script=file][,downscript=dfile]", "connect VLAN n to a host TAP interface"),
        later("socket[,vlan=n][,name=name][,fd=h][,listen=[host]:port][,connect=host:port]", "connect VLAN n to another machine by TCP"),
        later("socket[,vlan=n][,name=name][,fd=h][,mcast=maddr:port]", "connect VLAN n to other machines by UDP multicast"),
        later("vde[,vlan=n][,name=name][,sock=socketpath][,port=n][,group=groupname][,mode=octalmode]", "connect VLAN n to a VDE switch"),
        later("dump[,vlan=n][,file=file][,len=len]", "write the traffic of VLAN n to a file"),
        works("none", "no network card (the default for now)")),
    row!(Network, "tftp", NotYet, later("dir", "serve the files in dir to the guest by TFTP")),
    row!(Network, "bootp", NotYet, later("file", "advertise file as BOOTP file name")),
    row!(Network, "smb", NotYet, later("dir", "serve the files in dir to the guest by SMB")),
    row!(Network, "redir", NotYet, later("[tcp|udp]:host-port:[guest-host]:guest-port", "redirect connections to a host port to the guest")),

    row!(Bluetooth, "bt", NotYet,
        later("hci[...]", "define the function of a Bluetooth HCI"),
        later("vhci[,vlan=n]", "attach a virtual HCI to the host's Bluetooth stack"),
        later("device:dev[,vlan=n]", "place an emulated Bluetooth device in network n")),

    row!(LinuxBoot, "kernel", Value(machine::kernel), works("bzImage", "use bzImage as kernel image")),
    row!(LinuxBoot, "append", Value(machine::append), works("cmdline", "use cmdline as kernel command line")),
    row!(LinuxBoot, "initrd", Value(machine::initrd), works("file", "use file as initial RAM disk")),

    row!(Debug, "serial", Value(chardev::serial), works("dev", "redirect a serial port: vc, pty, none, null, stdio, /dev/... (keeps its speed, parity and stop bits), file:, pipe:, tcp:, unix:, mon: (udp:, telnet:, msmouse, braille not supported yet)")),
    row!(Debug, "parallel", Value(chardev::parallel), works("dev", "redirect a parallel port, same devices as -serial, none for no port (/dev/parportN not supported yet)")),
    row!(Debug, "monitor", Value(chardev::monitor), works("dev", "redirect the monitor, same devices as -serial")),
    row!(Debug, "pidfile", Value(machine::pidfile), works("file", "write the process id to file")),
    row!(Debug, "singlestep", Flag(|draft| draft.config.single_step = true), works("", "run the CPU one instruction at a time")),
    row!(Debug, "S", Flag(|draft| draft.config.stopped = true), works("", "do not start the CPU at start-up (type c in the monitor)")),
    row!(Debug, "gdb", NotYet, later("dev", "wait for a gdb connection on dev")),
    row!(Debug, "s", NotYet, later("", "shorthand for -gdb tcp::1234")),
    row!(Debug, "d", Value(machine::log), works("item1[,...]", "log these items to /tmp/qemu.log (-d ? for list)")),
    row!(Debug, "hdachs", Value(drive::hdachs), works("c,h,s,[,t]", "force the geometry of hard disk 0 and its BIOS translation (t: none, lba or auto)")),
    row!(Debug, "L", Value(firmware::firmware_dir), works("path", "folder of BIOS, VGA BIOS and keymaps")),
    row!(Debug, "bios", Value(firmware::bios), works("file", "file name of the BIOS")),
    row!(Debug, "kernel-kqemu", NotYet, later("", "enable KQEMU full virtualization")),
    row!(Debug, "no-kqemu", NotYet, later("", "disable KQEMU")),
    row!(Debug, "enable-kvm", NotYet, later("", "enable KVM full virtualization")),
    row!(Debug, "no-reboot", Flag(|draft| draft.config.no_reboot = true), works("", "exit instead of rebooting")),
    row!(Debug, "no-shutdown", Flag(|draft| draft.config.no_shutdown = true), works("", "stop instead of exiting when the guest shuts down")),
    row!(Debug, "loadvm", NotYet, later("file", "start from a saved state")),
    row!(Debug, "daemonize", Flag(|draft| draft.config.daemonize = true), works("", "run in the background once everything is set up")),
    row!(Debug, "option-rom", Value(firmware::option_rom), works("file", "load file as an option ROM")),
    row!(Debug, "clock", Value(machine::clock), works("method", "force a method for timer alarms (-clock ? for list)")),
    row!(Debug, "localtime", Flag(|draft| draft.local_time = true), works("", "set the real time clock to local time instead of UTC")),
    row!(Debug, "startdate", Value(date::startdate), works("date", "initial date of the real time clock: now, 2006-06-17T16:01:21 or 2006-06-17")),
    row!(Debug, "icount", Value(machine::icount), works("[N|auto]", "one instruction every 2^N ns of virtual time, N 0 to 10, or as many as keep it close to real time")),
    row!(Debug, "echr", Value(machine::echr), works("numeric_ascii_value", "escape character of the terminal instead of Ctrl-a (1)")),
    row!(Debug, "virtioconsole", NotYet, later("c", "set the virtio console")),
    row!(Debug, "chroot", Value(machine::chroot), works("dir", "change root to dir before the guest starts")),
    row!(Debug, "runas", Value(machine::run_as), works("user", "change to this user (or uid:gid) before the guest starts")),
    row!(Debug, "device", Value(machine::device), works("isa-debug-exit[,iobase=N][,iosize=N]", "add a port whose write ends the machine with status (value << 1) | 1")),
    row!(Debug, "trace", Value(trace::trace), works("[[enable=]pattern][,events=file][,file=file][,timeline=file][,logs=dir]", "record events of the devices whose name matches pattern or a line of events=; text to file= (default: standard error), a timeline for ui.perfetto.dev, a text file per process in logs= (-trace help for list)")),
];
