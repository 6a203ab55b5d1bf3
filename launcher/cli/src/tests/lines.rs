//! Command line -> configuration, and command line -> error line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use bulkhead_config::{
    AcpiTable, Cache, CharDevice, DebugExit, Drive, Geometry, Icount, Machine, MachineConfig, Media, RtcBase,
    RunAs, Smbios, Target, Trace, TraceSwitch, Translation, Vga,
};

use super::{error, good, line, printed, request};
use crate::error::{OptionError, Stop, one_line};
use crate::options::cpu::{FEATURES, MODELS};
use crate::parse;

fn disk(index: u8, file: &str) -> Drive {
    Drive { index, file: Some(file.into()), media: Media::Disk, ..Drive::empty_cdrom() }
}

fn cdrom(index: u8, file: &str) -> Drive {
    Drive { media: Media::Cdrom, ..disk(index, file) }
}

fn mux(device: CharDevice) -> CharDevice {
    CharDevice::Mux(Box::new(device))
}

fn tcp(host: &str, port: u16) -> CharDevice {
    CharDevice::Tcp { host: host.into(), port, server: false, wait: false, nodelay: false }
}

#[test]
fn no_options_give_the_default_machine() {
    let config = good("");
    assert_eq!(config, MachineConfig::new("qemu", Target::X86_64));
    assert_eq!(config.ram_bytes, 128 << 20);
    assert_eq!(config.boot, "cad");
    assert_eq!(config.cpus, 1);
    assert_eq!(config.escape_char, 1);
    assert_eq!(config.vga, Vga::Std);
    assert_eq!(config.drives, [Drive::empty_cdrom()]);
    assert_eq!((config.serials, config.parallels), (vec![CharDevice::Vc], vec![CharDevice::Vc]));
    assert_eq!(config.monitor, CharDevice::Vc);
}

#[test]
fn every_simple_option_sets_its_field() {
    type Check = fn(&MachineConfig) -> bool;
    let table: &[(&str, Check)] = &[
        ("-M isapc", |c| c.machine == Machine::IsaPc),
        ("-M pc", |c| c.machine == Machine::Pc),
        ("-cpu core2duo,+vmx,-sse2,family=6", |c| c.cpu == "core2duo,+vmx,-sse2,family=6"),
        ("-smp 1", |c| c.cpus == 1),
        ("-smp 255", |c| c.cpus == 255),
        ("-m 64", |c| c.ram_bytes == 64 << 20),
        ("-m 64M", |c| c.ram_bytes == 64 << 20),
        ("-m 64m", |c| c.ram_bytes == 64 << 20),
        ("-m 2G", |c| c.ram_bytes == 2 << 30),
        ("-m 1024G", |c| c.ram_bytes == 1 << 40),
        ("-m 0", |c| c.ram_bytes == 128 << 20),
        ("-m 64 -m 32", |c| c.ram_bytes == 32 << 20),
        ("-boot d", |c| c.boot == "d"),
        ("-boot nca", |c| c.boot == "nca"),
        ("-name guest", |c| c.name.as_deref() == Some("guest")),
        ("-uuid 00000000-0000-0000-0000-0000000000ff", |c| c.uuid.is_some_and(|u| u[15] == 0xff)),
        ("-vga none", |c| c.vga == Vga::None),
        ("-vga std", |c| c.vga == Vga::Std),
        ("-kernel vmlinuz -initrd initrd.gz", |c| {
            c.kernel == Some("vmlinuz".into()) && c.initrd == Some("initrd.gz".into())
        }),
        ("-append quiet -kernel vmlinuz", |c| c.append == "quiet"),
        ("-pidfile run/pid", |c| c.pidfile == Some("run/pid".into())),
        ("-chroot /var/empty", |c| c.chroot == Some("/var/empty".into())),
        ("-runas nobody", |c| c.run_as == Some(RunAs::User("nobody".to_owned()))),
        ("-runas 1000", |c| c.run_as == Some(RunAs::User("1000".to_owned()))),
        ("-runas 12:34", |c| c.run_as == Some(RunAs::Ids(12, 34))),
        ("-S", |c| c.stopped),
        ("-d in_asm,int", |c| c.log_items == ["in_asm", "int"]),
        ("-d all", |c| c.log_items == ["all"]),
        ("-singlestep", |c| c.single_step),
        ("-clock rtc,dynticks -m 64", |c| c.ram_bytes == 64 << 20),
        ("-icount 0", |c| c.icount == Some(Icount::Shift(0))),
        ("-icount 10", |c| c.icount == Some(Icount::Shift(10))),
        ("-icount auto", |c| c.icount == Some(Icount::Auto)),
        ("-L firmware", |c| c.firmware_dir == Some("firmware".into())),
        ("-bios bios.bin", |c| c.bios.as_deref() == Some("bios.bin")),
        ("-no-reboot", |c| c.no_reboot),
        ("-no-shutdown", |c| c.no_shutdown),
        ("-daemonize", |c| c.daemonize),
        ("-option-rom a -option-rom b", |c| c.option_roms.len() == 2),
        ("-localtime", |c| c.rtc == RtcBase::Local),
        ("-localtime -startdate now", |c| c.rtc == RtcBase::Local),
        ("-startdate 1970-01-02", |c| c.rtc == RtcBase::Start(86400)),
        ("-startdate 2006-06-17T16:01:21 -localtime", |c| c.rtc == RtcBase::Start(1150560081)),
        ("-startdate 2006-6-7T6:1:2", |c| c.rtc == RtcBase::Start(1149660062)),
        ("-startdate 2000-02-29", |c| c.rtc == RtcBase::Start(951782400)),
        ("-startdate 1969-12-31T23:59:59", |c| c.rtc == RtcBase::Start(-1)),
        ("-startdate 9999-12-31T23:59:59", |c| c.rtc == RtcBase::Start(253402300799)),
        ("-startdate 2006-06-17 -startdate now", |c| c.rtc == RtcBase::Utc),
        ("-echr 0x14", |c| c.escape_char == 20),
        ("-echr 20", |c| c.escape_char == 20),
        ("-no-acpi", |c| c.no_acpi),
        ("-no-hpet", |c| c.no_hpet),
        ("-no-fd-bootchk", |c| c.no_fd_bootchk),
        ("-rtc-td-hack", |c| c.rtc_td_hack),
        ("-win2k-hack", |c| c.win2k_hack),
        ("--win2k-hack", |c| c.win2k_hack),
        ("--m 32", |c| c.ram_bytes == 32 << 20),
        ("-snapshot", |c| c.snapshot),
        ("-net none -vnc none", |c| *c == good("")),
        ("-device isa-debug-exit,iobase=0xf4,iosize=0x04", |c| {
            c.debug_exit == Some(DebugExit { iobase: 0xf4, iosize: 4 })
        }),
        ("-trace ide0.* -trace file=a,timeline=b,logs=c -trace enable=-x,events=e", |c| {
            let pattern = |text: &str| TraceSwitch::Pattern(text.to_owned());
            let switches = vec![pattern("ide0.*"), pattern("-x"), TraceSwitch::File("e".into())];
            let (file, timeline, logs) = (Some("a".into()), Some("b".into()), Some("c".into()));
            c.trace == Trace { switches, file, timeline, logs }
        }),
        ("-device isa-debug-exit", |c| c.debug_exit == Some(DebugExit { iobase: 0x501, iosize: 2 })),
    ];
    for (text, check) in table {
        assert!(check(&good(text)), "{text}");
    }
}

#[test]
fn drives_land_in_their_slots() {
    let geometry = Geometry { cylinders: 100, heads: 16, sectors: 63, translation: Translation::Lba };
    let empty = Drive::empty_cdrom;
    let table: Vec<(&str, Vec<Drive>)> = vec![
        ("linux.img", vec![disk(0, "linux.img"), empty()]),
        ("-hdd d -hdb b -hda a -hdc c", vec![disk(0, "a"), disk(1, "b"), disk(2, "c"), disk(3, "d")]),
        ("-cdrom cd.iso linux.img", vec![disk(0, "linux.img"), cdrom(2, "cd.iso")]),
        ("-drive file=a -drive file=b", vec![disk(0, "a"), disk(1, "b"), empty()]),
        ("-hda x -drive file=b", vec![disk(0, "x"), disk(1, "b"), empty()]),
        (
            "-drive file=a -cdrom c -drive file=b -drive file=d",
            vec![disk(0, "a"), disk(1, "b"), cdrom(2, "c"), disk(3, "d")],
        ),
        ("-drive file=a,index=3", vec![empty(), disk(3, "a")]),
        ("-drive file=a,if=ide,bus=1,unit=1", vec![empty(), disk(3, "a")]),
        ("-drive file=a,unit=1", vec![disk(1, "a"), empty()]),
        ("-drive file=a,bus=1 -drive file=b,bus=1", vec![disk(2, "a"), disk(3, "b")]),
        ("-drive file=my,,file", vec![disk(0, "my,file"), empty()]),
        ("-drive if=ide,index=1,media=cdrom", vec![Drive { index: 1, ..empty() }, empty()]),
        ("-drive file=a,media=cdrom", vec![cdrom(0, "a"), empty()]),
        ("-hdachs 100,16,63,lba -hda a", vec![Drive { geometry: Some(geometry), ..disk(0, "a") }, empty()]),
        ("a -hdachs 0x64,16,63,lba", vec![Drive { geometry: Some(geometry), ..disk(0, "a") }, empty()]),
        ("-hdachs 100,16,63,lba -cdrom c", vec![cdrom(2, "c")]),
        (
            "-drive file=a,cyls=100,heads=16,secs=63,trans=lba",
            vec![Drive { geometry: Some(geometry), ..disk(0, "a") }, empty()],
        ),
        (
            "-snapshot a -drive file=b,snapshot=off -cdrom c",
            vec![Drive { snapshot: true, ..disk(0, "a") }, disk(1, "b"), cdrom(2, "c")],
        ),
        (
            "-drive file=a,snapshot=on,cache=none,format=raw,serial=QM00001",
            vec![
                Drive {
                    snapshot: true,
                    cache: Some(Cache::None),
                    format: Some("raw".into()),
                    serial: Some("QM00001".into()),
                    ..disk(0, "a")
                },
                empty(),
            ],
        ),
        (
            "-drive file=a,cache=writeback -drive file=b,cache=writethrough",
            vec![
                Drive { cache: Some(Cache::Writeback), ..disk(0, "a") },
                Drive { cache: Some(Cache::Writethrough), ..disk(1, "b") },
                empty(),
            ],
        ),
    ];
    for (text, expected) in table {
        let mut drives = good(text).drives;
        drives.iter_mut().for_each(|drive| drive.option.clear());
        assert_eq!(drives, expected, "{text}");
    }
}

#[test]
fn drives_know_the_option_that_asked_for_them() {
    let options = good("-hdd d a -drive file=b,if=ide").drives.into_iter().map(|drive| drive.option);
    assert_eq!(options.collect::<Vec<_>>(), ["-hda a", "-drive file=b,if=ide", "", "-hdd d"]);
}

#[test]
fn file_names_keep_their_bytes() {
    let name = OsString::from_vec(b"disk\xff.img".to_vec());
    let request = parse("qemu", Target::I386, ["-hda".into(), name.clone()]).unwrap();
    assert_eq!(request.config.drives[0].file, Some(name.clone().into()));
    let mut drive = OsString::from("file=");
    drive.push(&name);
    let request = parse("qemu", Target::I386, ["-drive".into(), drive]).unwrap();
    assert_eq!(request.config.drives[0].file, Some(name.into()));
}

#[test]
fn character_devices_are_understood() {
    let table: Vec<(&str, CharDevice)> = vec![
        ("none", CharDevice::None),
        ("null", CharDevice::Null),
        ("stdio", CharDevice::Stdio),
        ("pty", CharDevice::Pty),
        ("vc", CharDevice::Vc),
        ("vc:800x600", CharDevice::Vc),
        ("vc:80Cx24C", CharDevice::Vc),
        ("/dev/ttyS0", CharDevice::Tty("/dev/ttyS0".into())),
        ("file:a:b,c", CharDevice::File("a:b,c".into())),
        ("pipe:p", CharDevice::Pipe("p".into())),
        ("tcp:192.168.0.2:4444", tcp("192.168.0.2", 4444)),
        ("tcp:[::1]:4444", tcp("::1", 4444)),
        (
            "tcp::4444,server",
            CharDevice::Tcp { host: "".into(), port: 4444, server: true, wait: true, nodelay: false },
        ),
        (
            "tcp:host:0,server,nowait,nodelay",
            CharDevice::Tcp { host: "host".into(), port: 0, server: true, wait: false, nodelay: true },
        ),
        ("unix:/run/s,server,nowait", CharDevice::Unix { path: "/run/s".into(), server: true, wait: false }),
        ("unix:/run/s,server", CharDevice::Unix { path: "/run/s".into(), server: true, wait: true }),
        ("unix:/run/s", CharDevice::Unix { path: "/run/s".into(), server: false, wait: false }),
        ("mon:tcp:h:1", mux(tcp("h", 1))),
        ("mon:stdio", mux(CharDevice::Stdio)),
    ];
    for (spec, device) in table {
        assert_eq!(good(&format!("-serial {spec}")).serials, std::slice::from_ref(&device), "{spec}");
        assert_eq!(good(&format!("-parallel {spec}")).parallels, std::slice::from_ref(&device), "{spec}");
        assert_eq!(good(&format!("-monitor {spec}")).monitor, device, "{spec}");
    }
}

#[test]
fn ports_default_and_share_the_terminal_as_in_qemu() {
    use CharDevice::{None, Null, Stdio, Vc};
    let table: Vec<(&str, Vec<CharDevice>, Vec<CharDevice>, CharDevice)> = vec![
        ("-nographic", vec![mux(Stdio)], vec![Null], None),
        ("-nographic -monitor null", vec![Stdio], vec![Null], Null),
        ("-nographic -monitor none", vec![Stdio], vec![Null], None),
        ("-nographic -serial null", vec![Null], vec![Null], Stdio),
        ("-nographic -serial mon:stdio", vec![mux(Stdio)], vec![Null], None),
        ("-nographic -serial none -serial stdio", vec![None, mux(Stdio)], vec![Null], None),
        ("-nographic -monitor vc", vec![mux(Stdio)], vec![Null], None),
        ("-nographic -serial vc", vec![Vc], vec![Null], Stdio),
        ("-nographic -parallel none", vec![mux(Stdio)], vec![None], None),
        ("-serial stdio", vec![Stdio], vec![Vc], Vc),
        ("-serial mon:stdio", vec![mux(Stdio)], vec![Vc], Vc),
        ("-monitor stdio", vec![Vc], vec![Vc], Stdio),
        ("-serial stdio -monitor stdio", vec![mux(Stdio)], vec![Vc], None),
        ("-serial stdio -monitor mon:stdio", vec![mux(Stdio)], vec![Vc], None),
        ("-serial none -parallel none", vec![None], vec![None], Vc),
        ("-nographic -monitor none -serial null -parallel stdio", vec![Null], vec![Stdio], None),
        ("-parallel null -parallel none -parallel pty", vec![Vc], vec![Null, None, CharDevice::Pty], Vc),
        (
            "-serial null -serial null -serial null -serial pty",
            vec![Null, Null, Null, CharDevice::Pty],
            vec![Vc],
            Vc,
        ),
    ];
    for (text, serials, parallels, monitor) in table {
        let config = good(text);
        assert_eq!(
            (config.serials, config.parallels, config.monitor),
            (serials, parallels, monitor),
            "{text}"
        );
    }
}

#[test]
fn a_missing_display_is_announced_once() {
    assert!(line("").unwrap().notice.is_some());
    assert!(line("-vga none").unwrap().notice.is_some());
    assert!(line("-nographic").unwrap().notice.is_none());
    assert!(line("-vnc none").unwrap().notice.is_none());
}

#[test]
fn nodes_share_memory_and_processors() {
    let nodes = |text: &str| -> Vec<(u64, Vec<u8>)> {
        good(text).numa.into_iter().map(|node| (node.bytes >> 20, node.cpus)).collect()
    };
    assert_eq!(nodes("-smp 4"), []);
    // Equal parts by default, but for what is no multiple of 8 MiB.
    assert_eq!(
        nodes("-numa node -m 100 -numa node -smp 5 -numa node"),
        [(32, vec![0, 3]), (32, vec![1, 4]), (36, vec![2])]
    );
    let given = "-smp 4 -m 1G -numa node,nodeid=1,cpus=0-2,mem=256 -numa node,nodeid=0,cpus=3,mem=768M";
    assert_eq!(nodes(given), [(768, vec![3]), (256, vec![0, 1, 2])]);
    let half = "-smp 4 -m 1G -numa node,mem=128 -numa node,cpus=1 -numa node,mem=0x";
    assert_eq!(error(&half.split(' ').collect::<Vec<_>>()).matches("mem=0x: not a memory size").count(), 1);
    let rest = "-smp 4 -m 1G -numa node,mem=128 -numa node,cpus=1 -numa node";
    assert_eq!(nodes(rest), [(128, vec![0, 3]), (448, vec![1]), (448, vec![2])]);
    assert_eq!(nodes("-smp 3 -numa node,cpus=1"), [(128, vec![0, 1, 2])]);
}

#[test]
fn firmware_tables_are_understood() {
    let config = good(
        "-acpitable sig=TEST,rev=2,oem_id=BULK,oem_table_id=HEAD,oem_rev=0x10,asl_compiler_id=X,asl_compiler_rev=1,data=a:b",
    );
    assert_eq!(
        config.acpi_tables,
        [AcpiTable {
            signature: Some(*b"TEST"),
            revision: Some(2),
            oem_id: Some("BULK".into()),
            oem_table_id: Some("HEAD".into()),
            oem_revision: Some(16),
            compiler_id: Some("X".into()),
            compiler_revision: Some(1),
            data: vec!["a".into(), "b".into()],
        }]
    );
    let config = good(
        "-smbios file=t.bin -smbios type=0,vendor=A,,B,release=1.2 \
         -smbios type=1,uuid=00112233-4455-6677-8899-aabbccddeeff,family=F",
    );
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        config.smbios,
        [
            Smbios::File("t.bin".into()),
            Smbios::Fields { kind: 0, fields: vec![field("vendor", "A,B"), field("release", "1.2")] },
            Smbios::Fields {
                kind: 1,
                fields: vec![field("uuid", "00112233-4455-6677-8899-aabbccddeeff"), field("family", "F")],
            },
        ]
    );
}

#[test]
fn every_bad_line_names_the_option_and_the_reason() {
    let long = "x".repeat(108);
    let unix = format!("unix:{long}");
    let table: Vec<(Vec<&str>, &str)> = vec![
        (vec!["-foo"], "-foo: invalid option"),
        (vec!["--foo"], "--foo: invalid option"),
        (vec!["-"], "-: invalid option"),
        (vec!["--"], "--: invalid option"),
        (vec!["---m"], "---m: invalid option"),
        (vec!["-m=32"], "-m=32: invalid option"),
        (vec!["-m"], "-m: requires an argument"),
        (vec!["-usb"], "-usb: not supported yet"),
        (vec!["-chroot", ""], "-chroot \"\": empty file name"),
        (vec!["-runas", ""], "-runas \"\": a user expected"),
        (vec!["-runas", "a:b"], "-runas a:b: neither a user nor uid:gid"),
        (vec!["-runas", "1:"], "-runas 1:: neither a user nor uid:gid"),
        (vec!["-runas", "+1:2"], "-runas +1:2: neither a user nor uid:gid"),
        (vec!["-runas", "1:4294967295"], "-runas 1:4294967295: neither a user nor uid:gid"),
        (vec!["-runas", "1:2:3"], "-runas 1:2:3: neither a user nor uid:gid"),
        (vec!["--usb"], "-usb: not supported yet"),
        (vec!["-usbdevice"], "-usbdevice: not supported yet"),
        (vec!["-fda", "x"], "-fda: not supported yet"),
        (vec!["-smp", "0"], "-smp 0: number of CPUs: must be 1 to 255"),
        (vec!["-smp", "256"], "-smp 256: number of CPUs: must be 1 to 255"),
        (
            vec!["-numa", "node", "-M", "isapc"],
            "-numa: machine isapc has no ACPI to tell the guest of its nodes",
        ),
        (vec!["-no-acpi", "-numa", "node"], "-numa: needs ACPI (-no-acpi) to tell the guest of its nodes"),
        (vec!["-numa", "mem=1"], "-numa mem=1: must begin with \"node\""),
        (vec!["-numa", "node,size=1"], "-numa node,size=1: unknown parameter \"size\""),
        (vec!["-numa", "node,cpus=3-1"], "-numa node,cpus=3-1: cpus=3-1: ends before it begins"),
        (vec!["-numa", "node,cpus=0-1"], "-numa node,cpus=0-1: there is no CPU 1, only 1 (-smp)"),
        (vec!["-numa", "node,mem=1G"], "-numa node,mem=1G: more memory than the machine's 128 MiB (-m)"),
        (
            vec!["-numa", "node,mem=64"],
            "-numa node,mem=64: 64 MiB of the machine's memory (-m) belong to no node",
        ),
        (vec!["-numa", "node,nodeid=64"], "-numa node,nodeid=64: nodeid=64: must be 0 to 63"),
        (
            vec!["-numa", "node,nodeid=1"],
            "-numa node,nodeid=1: node 0 is missing: numbers begin with 0 and leave none out",
        ),
        (vec!["-numa", "node", "-numa", "node,nodeid=0"], "-numa node,nodeid=0: node 0 given twice"),
        (
            vec!["-numa", "node,cpus=0", "-numa", "node,cpus=0"],
            "-numa node,cpus=0: CPU 0 belongs to node 0 already",
        ),
        (vec!["-smp", "two"], "-smp two: number of CPUs: not a number"),
        (vec!["-m", "12x"], "-m 12x: not a memory size in megabytes (suffix M or G allowed)"),
        (vec!["-m", ""], "-m \"\": not a memory size in megabytes (suffix M or G allowed)"),
        (vec!["-m", "-5"], "-m -5: not a memory size in megabytes (suffix M or G allowed)"),
        (vec!["-m", "1.5G"], "-m 1.5G: not a memory size in megabytes (suffix M or G allowed)"),
        (vec!["-m", "1025G"], "-m 1025G: too much memory, at most 1024G"),
        (vec!["-m", "99999999999999999999"], "-m 99999999999999999999: too much memory, at most 1024G"),
        (vec!["-m", "18446744073709551615G"], "-m 18446744073709551615G: too much memory, at most 1024G"),
        (vec!["-M", "mac"], "-M mac: unknown machine (-M ? for list)"),
        (vec!["-cpu", "z80"], "-cpu z80: unknown CPU model \"z80\" (-cpu ? for list)"),
        (vec!["-cpu", "486,+warp"], "-cpu 486,+warp: unknown CPU feature \"warp\""),
        (vec!["-cpu", "486,warp"], "-cpu 486,warp: \"warp\" is not +feature, -feature or key=value"),
        (vec!["-cpu", "486,speed=1"], "-cpu 486,speed=1: unknown CPU property \"speed\""),
        (vec!["-cpu", "486,stepping=16"], "-cpu 486,stepping=16: stepping=16: must be 0 to 15"),
        (vec!["-cpu", "486,vendor=me"], "-cpu 486,vendor=me: vendor=me: must be 12 ASCII characters"),
        (vec!["-boot", "x"], "-boot x: invalid boot device 'x', only a, c, d, n"),
        (vec!["-boot", "cc"], "-boot cc: boot device 'c' given twice"),
        (vec!["-boot", "acdn"], "-boot acdn: at most three boot devices"),
        (vec!["-boot", ""], "-boot \"\": no boot device: one to three of a, c, d, n"),
        (vec!["-uuid", "1234"], "-uuid 1234: not a UUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"),
        (vec!["-vga", "cirrus"], "-vga cirrus: not supported yet"),
        (vec!["-vga", "cga"], "-vga cga: unknown VGA card: cirrus, std, vmware or none"),
        (vec!["-vnc", ":1"], "-vnc :1: not supported yet"),
        (vec!["-net", "nic,model=e1000"], "-net nic,model=e1000: not supported yet"),
        (
            vec!["-net", "wifi"],
            "-net wifi: unknown network type: nic, user, channel, tap, socket, vde, dump or none",
        ),
        (vec!["-echr", "^T"], "-echr ^T: character code: not a number"),
        (vec!["-echr", "256"], "-echr 256: character code: must be 0 to 255"),
        (vec!["-d", "everything"], "-d everything: unknown log item \"everything\" (-d ? for list)"),
        (vec!["-clock", "rtc"], "-clock rtc: no such alarm timer (-clock ? for list)"),
        (vec!["-clock", ""], "-clock \"\": no such alarm timer (-clock ? for list)"),
        (vec!["-icount", "11"], "-icount 11: auto or N: must be 0 to 10"),
        (vec!["-icount", "fast"], "-icount fast: auto or N: not a number"),
        (vec!["-icount", "3", "-smp", "2"], "-icount: only with one CPU (-smp 1)"),
        (vec!["-append", "quiet"], "-append: only allowed with -kernel"),
        (vec!["-initrd", "i"], "-initrd: only allowed with -kernel"),
        (vec!["-kernel", ""], "-kernel \"\": empty file name"),
        (vec![""], "-hda \"\": empty file name"),
        (vec!["-hdc", "a", "-cdrom", "b"], "-cdrom b: IDE index 2 is already taken by -hdc a"),
        (vec!["a", "b"], "-hda b: IDE index 0 is already taken by -hda a"),
        (vec!["-drive", "file=a", "-hda", "b"], "-hda b: IDE index 0 is already taken by -drive file=a"),
        (
            vec!["-hda", "a", "-hdb", "b", "-drive", "file=c,bus=0"],
            "-drive file=c,bus=0: IDE bus 0 has no free unit",
        ),
        (
            vec!["-hda", "a", "-hdb", "b", "-hdc", "c", "-hdd", "d", "-drive", "file=e"],
            "-drive file=e: no free IDE position, a machine has 4",
        ),
        (vec!["-hda", "fat:dir"], "-hda fat:dir: not supported yet"),
        (vec!["-drive", "file=nbd:h:1"], "-drive file=nbd:h:1: not supported yet"),
        (vec!["-drive", "file=a,if=scsi"], "-drive if=scsi: not supported yet"),
        (vec!["-drive", "if=floppy,file=a,index=0"], "-drive if=floppy: not supported yet"),
        (vec!["-drive", "file=a,format=qcow2"], "-drive format=qcow2: not supported yet"),
        (vec!["-drive", "file=a,format=zip"], "-drive file=a,format=zip: format=zip: unknown format"),
        (vec!["-drive", "file=a,index=4"], "-drive file=a,index=4: index=4: must be 0 to 3"),
        (vec!["-drive", "file=a,index=x"], "-drive file=a,index=x: index=x: not a number"),
        (
            vec!["-drive", "file=a,index=0,bus=0"],
            "-drive file=a,index=0,bus=0: index= cannot be used with bus= and unit=",
        ),
        (vec!["-drive", "file=a,unit=2"], "-drive file=a,unit=2: unit=2: must be 0 to 1"),
        (vec!["-drive", "file=a,speed=9"], "-drive file=a,speed=9: unknown parameter \"speed\""),
        (vec!["-drive", "file=a,file=b"], "-drive file=a,file=b: file= given twice"),
        (vec!["-drive", "disk.img"], "-drive disk.img: \"disk.img\" is not of the form name=value"),
        (
            vec!["-drive", "file=a,"],
            "-drive file=a,: empty parameter between commas (a comma inside a value is doubled)",
        ),
        (vec!["-drive", "index=1"], "-drive index=1: a disk needs file= (only a CD-ROM drive can be empty)"),
        (vec!["-drive", "file=a,media=tape"], "-drive file=a,media=tape: media=tape: must be disk or cdrom"),
        (vec!["-drive", "file=a,cyls=9"], "-drive file=a,cyls=9: cyls=, heads= and secs= belong together"),
        (
            vec!["-drive", "file=a,trans=lba"],
            "-drive file=a,trans=lba: trans= must be used with cyls=, heads= and secs=",
        ),
        (
            vec!["-drive", "file=a,cyls=16384,heads=1,secs=1"],
            "-drive file=a,cyls=16384,heads=1,secs=1: cyls=16384: must be 1 to 16383",
        ),
        (
            vec!["-drive", "file=a,media=cdrom,cyls=1,heads=1,secs=1"],
            "-drive file=a,media=cdrom,cyls=1,heads=1,secs=1: cyls, heads and secs are for disks only",
        ),
        (
            vec!["-drive", "file=a,snapshot=yes"],
            "-drive file=a,snapshot=yes: snapshot=yes: must be on or off",
        ),
        (
            vec!["-drive", "file=a,cache=fast"],
            "-drive file=a,cache=fast: cache=fast: must be none, writeback or writethrough",
        ),
        (
            vec!["-drive", "file=a,serial=123456789012345678901"],
            "-drive file=a,serial=123456789012345678901: serial=123456789012345678901: must be 1 to 20 ASCII characters",
        ),
        (vec!["-hdachs", "1,2"], "-hdachs 1,2: must be cylinders,heads,sectors[,translation]"),
        (vec!["-hdachs", "0,16,63"], "-hdachs 0,16,63: cylinders: must be 1 to 16383"),
        (vec!["-hdachs", "1,17,63"], "-hdachs 1,17,63: heads: must be 1 to 16"),
        (vec!["-hdachs", "1,16,64"], "-hdachs 1,16,64: sectors: must be 1 to 63"),
        (vec!["-hdachs", "1,1,1,big"], "-hdachs 1,1,1,big: translation \"big\" must be none, lba or auto"),
        (
            vec!["-hdachs", "1,1,1", "-drive", "file=a,cyls=2,heads=2,secs=2"],
            "-hdachs 1,1,1: -drive file=a,cyls=2,heads=2,secs=2 has a geometry of its own",
        ),
        (vec!["-serial", "udp::4555"], "-serial udp::4555: not supported yet"),
        (vec!["-serial", "telnet::23,server"], "-serial telnet::23,server: not supported yet"),
        (vec!["-serial", "mon:telnet::23"], "-serial mon:telnet::23: not supported yet"),
        (vec!["-serial", "msmouse"], "-serial msmouse: not supported yet"),
        (vec!["-monitor", "braille"], "-monitor braille: not supported yet"),
        (vec!["-parallel", "/dev/parport0"], "-parallel /dev/parport0: not supported yet"),
        (vec!["-parallel", "mon:/dev/parport1"], "-parallel mon:/dev/parport1: not supported yet"),
        (vec!["-parallel", "udp::4555"], "-parallel udp::4555: not supported yet"),
        (vec!["-parallel", "tcp:h"], "-parallel tcp:h: no port: tcp:[host]:port"),
        (vec!["-serial", "COM1"], "-serial COM1: COM ports are for Windows hosts only"),
        (vec!["-serial", "/dev/parport0"], "-serial /dev/parport0: a parallel port is for -parallel only"),
        (
            vec!["-serial", "tty"],
            "-serial tty: unknown character device \"tty\": vc, pty, none, null, stdio, /dev/..., file:, pipe:, tcp:, unix: or mon:",
        ),
        (vec!["-serial", "file:"], "-serial file:: empty file name"),
        (
            vec!["-serial", "vc:80"],
            "-serial vc:80: console size must be WxH in pixels or WCxHC in characters",
        ),
        (vec!["-serial", "tcp:h:99999"], "-serial tcp:h:99999: port: must be 1 to 65535"),
        (vec!["-serial", "tcp:h:0"], "-serial tcp:h:0: port: must be 1 to 65535"),
        (vec!["-serial", "tcp:h:http"], "-serial tcp:h:http: port: not a number"),
        (vec!["-serial", "tcp:::1"], "-serial tcp:::1: write an IPv6 address in brackets"),
        (vec!["-serial", "tcp:[x]:1"], "-serial tcp:[x]:1: not an address of the form [IPv6]:port"),
        (
            vec!["-serial", "tcp:h:1,listen"],
            "-serial tcp:h:1,listen: unknown flag \"listen\": server, nowait, nodelay",
        ),
        (
            vec!["-serial", "unix:s,nodelay"],
            "-serial unix:s,nodelay: unknown flag \"nodelay\": server, nowait",
        ),
        (vec!["-serial", "unix:"], "-serial unix:: empty socket path"),
        (vec!["-serial", "mon:mon:stdio"], "-serial mon:mon:stdio: mon: inside mon:"),
        (vec!["-serial", "mon:none"], "-serial mon:none: mon: needs a device"),
        (
            vec!["-nographic", "-parallel", "stdio"],
            "-parallel stdio: standard input and output are used twice",
        ),
        (
            vec!["-serial", "stdio", "-serial", "stdio"],
            "-serial stdio: standard input and output are used twice",
        ),
        (
            vec![
                "-serial", "null", "-serial", "null", "-serial", "null", "-serial", "null", "-serial", "null",
            ],
            "-serial null: at most 4 serial ports",
        ),
        (
            vec!["-parallel", "none", "-parallel", "none", "-parallel", "none", "-parallel", "none"],
            "-parallel none: at most 3 parallel ports",
        ),
        (vec!["-acpitable", "sig=ABC"], "-acpitable sig=ABC: sig=ABC: must be four ASCII characters"),
        (vec!["-acpitable", "rev=256"], "-acpitable rev=256: rev=256: must be 0 to 255"),
        (
            vec!["-acpitable", "oem_id=TOOLONG"],
            "-acpitable oem_id=TOOLONG: oem_id=TOOLONG: must be at most 6 ASCII characters",
        ),
        (vec!["-acpitable", "data=a::b"], "-acpitable data=a::b: data= holds an empty file name"),
        (
            vec!["-acpitable", "sig=TEST", "-M", "isapc"],
            "-acpitable: machine isapc has no ACPI to add a table to",
        ),
        (vec!["-no-acpi", "-acpitable", "sig=TEST"], "-acpitable: needs ACPI (-no-acpi) to add a table to"),
        (vec!["-acpitable", "x=y"], "-acpitable x=y: unknown parameter \"x\""),
        (vec!["-smbios", "type=2"], "-smbios type=2: fields are known for type 0 and 1 only, not 2"),
        (vec!["-smbios", "vendor=x"], "-smbios vendor=x: needs file=, type=0 or type=1"),
        (vec!["-smbios", "type=0,sku=x"], "-smbios type=0,sku=x: unknown parameter \"sku\""),
        (
            vec!["-smbios", "type=0,release=1.256"],
            "-smbios type=0,release=1.256: release=1.256: must be two numbers below 256, like 1.2",
        ),
        (vec!["-smbios", "file="], "-smbios file=: empty file name"),
        (vec!["-device", "e1000"], "-device e1000: unknown device \"e1000\", only isa-debug-exit"),
        (
            vec!["-device", "isa-debug-exit,iobase=0xffff,iosize=2"],
            "-device isa-debug-exit,iobase=0xffff,iosize=2: the ports end above 0xffff",
        ),
        (
            vec!["-device", "isa-debug-exit,iosize=5"],
            "-device isa-debug-exit,iosize=5: iosize=5: must be 1 to 4",
        ),
    ];
    for (words, expected) in &table {
        assert_eq!(error(words), *expected);
    }
    assert!(error(&["-serial", &unix]).ends_with("socket path longer than 107 bytes"));
}

#[test]
fn days_outside_the_calendar_are_refused() {
    for date in [
        "2006-02-30",
        "2001-02-29",
        "1900-02-29",
        "2006-13-01",
        "2006-00-10",
        "2006-04-31",
        "2006-06-17T24:00:00",
        "2006-06-17T16:60:00",
        "2006-06-17T16:01:61",
        "2006-06-17T16:01",
        "2006-06-17 16:01:21",
        "06-06-17",
        "today",
        "",
        "2006-06-17T",
        "-001-01-01",
        "10000-01-01",
        "2006-06-17Z",
    ] {
        let message = error(&["-startdate", date]);
        assert!(message.contains("not a date: "), "{date}: {message}");
    }
}

#[test]
fn seventeenth_option_rom_is_refused() {
    let words: Vec<&str> = ["-option-rom", "rom"].into_iter().cycle().take(34).collect();
    assert_eq!(error(&words), "-option-rom rom: at most 16 option ROMs");
    assert_eq!(request(&words[..32]).unwrap().config.option_roms.len(), 16);
}

#[test]
fn thirty_two_bit_programs_offer_no_long_mode_and_64_gib() {
    let run = |words: &[&str]| parse("qemu", Target::I386, words.iter().map(OsString::from));
    let Err(Stop::Print(list)) = run(&["-cpu", "?"]) else { panic!("no list") };
    assert!(!list.contains("qemu64") && list.contains("qemu32"));
    assert!(matches!(run(&["-cpu", "phenom"]), Err(Stop::Error(OptionError::Value { .. }))));
    assert!(run(&["-m", "64G"]).is_ok());
    assert!(run(&["-m", "65G"]).is_err());
    assert_eq!(run(&[]).unwrap().config.target, Target::I386);
}

#[test]
fn cpu_names_are_those_that_the_cpu_process_knows() {
    let mut ours: Vec<&str> = MODELS.iter().map(|(name, _)| *name).collect();
    let mut theirs: Vec<&str> = bulkhead_x86::cpuid::models().iter().map(|model| model.name).collect();
    ours.sort_unstable();
    theirs.sort_unstable();
    assert_eq!(ours, theirs);
    for feature in FEATURES.iter().copied().flatten() {
        let choice = bulkhead_x86::cpuid::parse(&format!("qemu64,-{feature}")).unwrap();
        assert!(choice.warnings.is_empty(), "{feature}: {:?}", choice.warnings);
    }
    let full = "qemu64,family=270,model=255,stepping=15,xlevel=0x80000008,vendor=GenuineIntel,model_id=x";
    assert!(bulkhead_x86::cpuid::parse(&good(&format!("-cpu {full}")).cpu).is_ok());
}

#[test]
fn lists_are_printed() {
    assert_eq!(
        printed("-M ?"),
        "Supported machines are:\npc         Standard PC (default)\nisapc      ISA-only PC\n"
    );
    for model in [
        "486", "pentium", "pentium2", "pentium3", "athlon", "n270", "coreduo", "core2duo", "kvm64", "qemu32",
        "qemu64", "phenom", "max",
    ] {
        assert!(printed("-cpu ?").lines().any(|line| line == format!("x86 {model:>16}")), "{model}");
        assert_eq!(good(&format!("-cpu {model}")).cpu, model);
    }
    assert_eq!(printed("-d ?").lines().count(), 11);
    assert_eq!(printed("-drive format=?"), "Supported formats: raw\n");
    assert_eq!(printed("-device ?"), "name \"isa-debug-exit\", bus ISA\n");
}

#[test]
fn text_that_is_not_utf8_is_refused_by_name() {
    let words = ["-name".into(), OsString::from_vec(vec![0xff])];
    let Err(Stop::Error(error)) = parse("qemu", Target::X86_64, words) else { panic!("accepted") };
    assert!(error.to_string().ends_with("not valid UTF-8"), "{error}");
}

#[test]
fn a_message_is_one_line_whatever_the_argument_holds() {
    assert_eq!(one_line("-m 1\n2\x1b[0m\u{85}: é"), "-m 1\\n2\\u{1b}[0m\\u{85}: é");
}
