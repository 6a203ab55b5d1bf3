//! The devices that one guest finds under Debian's QEMU and under this one.
//!
//! A script in the guest lists what Linux detected: PCI functions with their configuration headers, BARs and interrupts, ACPI's
//! devices, ports and drives, and the kernel's messages about them. Every line has to be the same on both, but for the
//! differences below, each of which `ARCHITECTURE.md` explains.

use std::collections::BTreeSet;
use std::path::Path;

use bulkhead_tests::{Scratch, Vm, guest};

/// Debian's QEMU.
const PEER: &str = "/usr/bin/qemu-system-x86_64";

/// Lists the hardware, a line a fact. It lies on the disk's first sectors, where the guest runs it from.
const SCRIPT: &str = r#"
cd /sys/bus/pci/devices
for d in *; do
  echo "pci $d" $(cat $d/vendor $d/device $d/class $d/revision $d/subsystem_vendor $d/subsystem_device) irq $(cat $d/irq)
  od -An -v -tx1 -w8 -N64 $d/config | sed "s/^/pci $d header $((n=0))/" | awk '{$4=sprintf("%02x", 8*(NR-1)); print}'
  sed "s/^/pci $d resource /" $d/resource | grep -v '0x0000000000000000 0x0000000000000000 '
done
cd /sys/bus/pnp/devices; for d in *; do echo pnp $(cat $d/id $d/resources); done
cd /sys/bus/serio/devices; for d in *; do echo "serio $d" $(cat $d/description $d/id/*); done
cd /sys/class/tty; for d in ttyS?; do echo "tty $d" $(cat $d/type $d/port $d/irq $d/xmit_fifo_size); done
cd /sys/block; for d in sd? sr?; do echo "blk $d" $(cat $d/size $d/removable $d/ro $d/device/vendor $d/device/model $d/queue/logical_block_size); done
sed -n 's/^[NPH]: /input /p' /proc/bus/input/devices
sed -n 's/^ *\([0-9]*\): *[0-9]* */irq \1 /p' /proc/interrupts
sed 's/^/dma /' /proc/dma
sed 's/^ */ioport /' /proc/ioports
sed -n '/RAM\|Kernel\|Reserved\|Adapter/!s/^ */iomem /p' /proc/iomem
echo clocks $(cat /sys/devices/system/clocksource/clocksource0/available_clocksource)
dmesg | sed 's/^\[[ 0-9.]*\] //' | grep -E '^(ata|scsi|sd|sr|pci|pci_bus|i8042|serio|hpet|hpet0|rtc_cmos|serial8250|input|PCI|ata_piix|IOAPIC|vgaarb)\b|ttyS|PCI: Interrupt link|INT_SRC|PM-Timer IO|(hpet|acpi_pm): mask' |
  grep -v 'system clock' | sed 's/\b00:0[0-9]\b\(:\| \)/pnp\1/; s/^/dmesg /'
echo hpet $(dmesg | grep -o 'HPET id: .*')
"#;

/// What `ARCHITECTURE.md` says, and the lines that this changes: `-` of Debian's QEMU, `+` of this one.
type Explained = (&'static str, &'static [&'static str]);

/// Every difference there may be.
const EXPLAINED: &[Explained] = &[
    (
        "IOAPIC version 0x11 (82093AA datasheet)",
        &[
            "- dmesg IOAPIC[0]: apic_id 0, version 32, address 0xfec00000, GSI 0-23",
            "+ dmesg IOAPIC[0]: apic_id 0, version 17, address 0xfec00000, GSI 0-23",
        ],
    ),
    (
        "PCI command and status registers are as in the datasheets",
        &[
            "- pci 0000:00:00.0 header 00 86 80 37 12 03 01 00 00",
            "+ pci 0000:00:00.0 header 00 86 80 37 12 07 01 80 02",
            "- pci 0000:00:01.0 header 00 86 80 00 70 03 01 00 02",
            "+ pci 0000:00:01.0 header 00 86 80 00 70 07 01 00 02",
        ],
    ),
    (
        "latency timer of the IDE function is writable",
        &[
            "- pci 0000:00:01.1 header 08 00 80 01 01 00 00 00 00",
            "+ pci 0000:00:01.1 header 08 00 80 01 01 00 40 00 00",
        ],
    ),
    (
        "power management at I/O port 0xb000 and SMBus at 0xb100",
        &[
            "- dmesg ACPI: PM-Timer IO Port: 0x608",
            "+ dmesg ACPI: PM-Timer IO Port: 0xb008",
            "- dmesg pci 0000:00:01.3: quirk: [io  0x0600-0x063f] claimed by PIIX4 ACPI",
            "+ dmesg pci 0000:00:01.3: quirk: [io  0xb000-0xb03f] claimed by PIIX4 ACPI",
            "- dmesg pci 0000:00:01.3: quirk: [io  0x0700-0x070f] claimed by PIIX4 SMB",
            "+ dmesg pci 0000:00:01.3: quirk: [io  0xb100-0xb10f] claimed by PIIX4 SMB",
            "- ioport 0600-063f : 0000:00:01.3",
            "+ ioport b000-b03f : 0000:00:01.3",
            "- ioport 0600-0603 : ACPI PM1a_EVT_BLK",
            "+ ioport b000-b003 : ACPI PM1a_EVT_BLK",
            "- ioport 0604-0605 : ACPI PM1a_CNT_BLK",
            "+ ioport b004-b005 : ACPI PM1a_CNT_BLK",
            "- ioport 0608-060b : ACPI PM_TMR",
            "+ ioport b008-b00b : ACPI PM_TMR",
            "- ioport 0700-070f : 0000:00:01.3",
            "+ ioport b100-b10f : 0000:00:01.3",
        ],
    ),
    (
        "the PCI window begins at 2 GiB and none lies above 4 GiB",
        &[
            "- dmesg pci_bus 0000:00: resource 7 [mem 0x10000000-0xfebfffff window]",
            "+ dmesg pci_bus 0000:00: resource 7 [mem 0x80000000-0xfebfffff window]",
            "- dmesg pci_bus 0000:00: resource 8 [mem 0x100000000-0x17fffffff window]",
            "- dmesg pci_bus 0000:00: root bus resource [mem 0x10000000-0xfebfffff window]",
            "+ dmesg pci_bus 0000:00: root bus resource [mem 0x80000000-0xfebfffff window]",
            "- dmesg pci_bus 0000:00: root bus resource [mem 0x100000000-0x17fffffff window]",
            "- iomem 10000000-febfffff : PCI Bus 0000:00",
            "+ iomem 80000000-febfffff : PCI Bus 0000:00",
            "- iomem 100000000-17fffffff : PCI Bus 0000:00",
        ],
    ),
    (
        "the clock's ports in two pieces, so that Linux uses 128 bytes of its memory and not the century",
        &[
            "- pnp PNP0b00 state = active io 0x70-0x77 irq 8",
            "+ pnp PNP0b00 state = active io 0x70-0x71 irq 8 io 0x72-0x77",
            "- ioport 0070-0077 : rtc0",
            "+ ioport 0070-0071 : rtc0",
            "- dmesg rtc_cmos pnp: alarms up to one day, y3k, 242 bytes nvram, hpet irqs",
            "+ dmesg rtc_cmos pnp: alarms up to one day, 114 bytes nvram, hpet irqs",
        ],
    ),
    ("no ACPI device for the firmware configuration ports", &["- ioport 0510-051b : QEMU0002:00"]),
    (
        "Drives call their firmware 0.10.4",
        &[
            "- dmesg scsi 0:0:0:0: Direct-Access     ATA      QEMU HARDDISK    2.5+ PQ: 0 ANSI: 5",
            "+ dmesg scsi 0:0:0:0: Direct-Access     ATA      QEMU HARDDISK    .4   PQ: 0 ANSI: 5",
            "- dmesg scsi 1:0:0:0: CD-ROM            QEMU     QEMU DVD-ROM     2.5+ PQ: 0 ANSI: 5",
            "+ dmesg scsi 1:0:0:0: CD-ROM            QEMU     QEMU DVD-ROM     0.10 PQ: 0 ANSI: 5",
        ],
    ),
    (
        "the default is cache=writethrough",
        &[
            "- dmesg sd 0:0:0:0: [sda] Write cache: enabled, read cache: enabled, doesn't support DPO or FUA",
            "+ dmesg sd 0:0:0:0: [sda] Write cache: disabled, read cache: enabled, doesn't support DPO or FUA",
        ],
    ),
];

/// What the guest under `program` finds.
fn inventory(program: &str, own: &[&str], disk: &str) -> BTreeSet<String> {
    let (kernel, initrd) = (guest("amd64/vmlinuz"), guest("amd64/initrd.gz"));
    let drive = format!("file={disk},if=ide,index=0,format=raw");
    let mut args = vec!["-nographic", "-m", "256", "-vga", "std", "-drive", &drive];
    args.extend(["-kernel", &kernel, "-initrd", &initrd, "-append", "console=ttyS0"]);
    args.extend(own);
    let mut vm = Vm::start(program, &args);
    vm.expect("userland is up", 240);
    vm.expect("# ", 30);
    vm.send(
        "cd /lib/modules/*; for m in scsi_common scsi_mod libata cdrom crc64 crct10dif_common crc-t10dif\n",
    );
    vm.send("do insmod $m.ko; done; for m in crc64-rocksoft t10-pi sd_mod sr_mod ata_piix; do insmod $m.ko; done\n");
    vm.send("until [ -b /dev/sda ] && [ -b /dev/sr0 ]; do sleep 1; done; sleep 1; cd /\n");
    vm.send("stty -echo; dmesg -n 1; tr -d '\\000' < /dev/sda > /tmp/list; echo rea\"\"dy\n");
    vm.expect("ready", 60);
    vm.send("sh /tmp/list | sort -u; echo e\"\"nd of list\n");
    let text = vm.expect("end of list", 60);
    vm.send("poweroff -f\n");
    assert_eq!(vm.wait(60).code(), Some(0), "{}", vm.errors());
    let kinds = [
        "pci", "pnp", "serio", "tty", "blk", "input", "irq", "dma", "ioport", "iomem", "clocks", "dmesg",
        "hpet",
    ];
    // The kernel says of a quirk that it took more than 10 ms of real time: a matter of the host's load, not of devices.
    let lines = text.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.ends_with(" usecs"));
    lines.filter(|line| line.split_once(' ').is_some_and(|(kind, _)| kinds.contains(&kind))).collect()
}

#[test]
fn linux_finds_the_devices_that_it_finds_under_debian_s_qemu() {
    if !Path::new(PEER).exists() {
        eprintln!("skipped: {PEER} is not installed (package qemu-system-x86)");
        return;
    }
    let scratch = Scratch::new("dmesg");
    let disk = scratch.file("disk.img");
    let mut content = SCRIPT.as_bytes().to_vec();
    content.resize(8 << 20, 0);
    std::fs::write(&disk, content).expect("disk image");
    let peer = inventory(PEER, &["-nic", "none", "-M", "pc", "-accel", "tcg"], &disk);
    let own = inventory("qemu-system-x86_64", &[], &disk);
    assert!(peer.len() > 100 && peer.iter().any(|line| line.starts_with("pci 0000:00:01.1 ")), "{peer:?}");

    let map = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md"))
        .expect("map");
    let map = map.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut differences: BTreeSet<String> = peer.difference(&own).map(|line| format!("- {line}")).collect();
    differences.extend(own.difference(&peer).map(|line| format!("+ {line}")));
    for (why, lines) in EXPLAINED {
        assert!(map.contains(why), "ARCHITECTURE.md does not say: {why}");
        for line in *lines {
            assert!(differences.remove(*line), "no longer a difference: {line}");
        }
    }
    let list = differences.into_iter().collect::<Vec<_>>().join("\n");
    assert!(list.is_empty(), "unexplained differences, - Debian's QEMU, + this one:\n{list}");
}
