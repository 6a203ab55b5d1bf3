//! The table against the manual.

use super::{line, printed};
use crate::error::{OptionError, Stop};
use crate::options::{Action, Group, OPTIONS};
use crate::usage;

/// Headings of chapter 3.3 of the QEMU 0.10.4 manual: option and argument syntax.
const HEADINGS: &[&str] = &[
    "-h",
    "-version",
    "-M machine",
    "-cpu model",
    "-smp n",
    "-numa opts",
    "-fda file",
    "-fdb file",
    "-hda file",
    "-hdb file",
    "-hdc file",
    "-hdd file",
    "-cdrom file",
    "-drive option[,option[,option[,...]]]",
    "-mtdblock file",
    "-sd file",
    "-pflash file",
    "-boot [a|c|d|n]",
    "-snapshot",
    "-m megs",
    "-k language",
    "-audio-help",
    "-soundhw card1[,card2,...] or -soundhw all",
    "-usb",
    "-usbdevice devname",
    "-name name",
    "-uuid uuid",
    "-nographic",
    "-curses",
    "-no-frame",
    "-alt-grab",
    "-no-quit",
    "-sdl",
    "-portrait",
    "-vga type",
    "-full-screen",
    "-vnc display[,option[,option[,...]]]",
    "-win2k-hack",
    "-rtc-td-hack",
    "-no-fd-bootchk",
    "-no-acpi",
    "-no-hpet",
    "-acpitable [sig=str][,rev=n][,oem_id=str][,oem_table_id=str][,oem_rev=n] [,asl_compiler_id=str][,asl_compiler_rev=n][,data=file1[:file2]...]",
    "-smbios file=binary",
    "-smbios type=0[,vendor=str][,version=str][,date=str][,release=%d.%d]",
    "-smbios type=1[,manufacturer=str][,product=str][,version=str][,serial=str][,uuid=uuid][,sku=str][,family=str]",
    "-net nic[,vlan=n][,macaddr=addr][,model=type][,name=name]",
    "-net user[,vlan=n][,hostname=name][,name=name]",
    "-net channel,port:dev",
    "-net tap[,vlan=n][,name=name][,fd=h][,ifname=name][,script=file][,downscript=dfile]",
    "-net socket[,vlan=n][,name=name][,fd=h][,listen=[host]:port][,connect=host:port]",
    "-net socket[,vlan=n][,name=name][,fd=h][,mcast=maddr:port]",
    "-net vde[,vlan=n][,name=name][,sock=socketpath][,port=n][,group=groupname][,mode=octalmode]",
    "-net dump[,vlan=n][,file=file][,len=len]",
    "-net none",
    "-tftp dir",
    "-bootp file",
    "-smb dir",
    "-redir [tcp|udp]:host-port:[guest-host]:guest-port",
    "-bt hci[...]",
    "-bt vhci[,vlan=n]",
    "-bt device:dev[,vlan=n]",
    "-kernel bzImage",
    "-append cmdline",
    "-initrd file",
    "-serial dev",
    "-parallel dev",
    "-monitor dev",
    "-pidfile file",
    "-singlestep",
    "-S",
    "-gdb dev",
    "-s",
    "-d",
    "-hdachs c,h,s,[,t]",
    "-L path",
    "-bios file",
    "-kernel-kqemu",
    "-no-kqemu",
    "-enable-kvm",
    "-no-reboot",
    "-no-shutdown",
    "-loadvm file",
    "-daemonize",
    "-option-rom file",
    "-clock method",
    "-localtime",
    "-startdate date",
    "-icount [N|auto]",
    "-echr numeric_ascii_value",
    "-virtioconsole c",
    "-chroot dir",
    "-runas user",
];

/// The working options that the first release names; all others must say that they are not supported yet.
const WORKING: &str = "h version M cpu smp numa m hda hdb hdc hdd cdrom drive hdachs boot snapshot name uuid nographic vga \
    kernel append initrd serial monitor parallel pidfile singlestep S d L bios no-reboot no-shutdown daemonize option-rom \
    localtime startdate icount clock echr chroot runas no-acpi no-hpet no-fd-bootchk rtc-td-hack win2k-hack acpitable smbios device trace vnc net";

#[test]
fn every_heading_of_the_manual_is_in_the_help_with_its_syntax() {
    let help = usage::help("qemu");
    for heading in HEADINGS {
        // The manual omits the argument that its `-d` takes.
        let heading = if *heading == "-d" { "-d item1[,...]" } else { heading };
        let found = help.lines().any(|line| {
            line.strip_prefix(heading).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        });
        assert!(found, "{heading}");
    }
    let forms: usize = OPTIONS.iter().map(|row| row.forms.len()).sum();
    assert_eq!(
        forms,
        HEADINGS.len() + 3,
        "-device, -trace and -vnc none are the only forms beyond the headings"
    );
}

#[test]
fn rows_agree_with_themselves() {
    for (at, row) in OPTIONS.iter().enumerate() {
        assert!(OPTIONS[..at].iter().all(|other| other.name != row.name), "-{} twice", row.name);
        let takes = row.forms.iter().filter(|form| !form.syntax.is_empty()).count();
        match row.action {
            Action::Value(_) => assert_eq!(takes, row.forms.len(), "-{}", row.name),
            Action::Flag(_) | Action::Help | Action::Version => assert_eq!(takes, 0, "-{}", row.name),
            Action::NotYet => assert!(takes == 0 || takes == row.forms.len(), "-{}", row.name),
        }
        let works = row.forms.iter().any(|form| form.supported);
        assert_eq!(works, !matches!(row.action, Action::NotYet), "-{}", row.name);
        assert_eq!(works, WORKING.split_whitespace().any(|name| name == row.name), "-{}", row.name);
        for form in row.forms {
            assert!(!form.help.is_empty() && !form.help.contains('\n'), "-{}", row.name);
        }
    }
}

#[test]
fn unbuilt_options_are_refused_by_name_with_and_without_argument() {
    for row in OPTIONS.iter().filter(|row| matches!(row.action, Action::NotYet)) {
        for words in [format!("-{}", row.name), format!("--{} x", row.name)] {
            let expected = OptionError::NotSupported(format!("-{}", row.name));
            assert_eq!(line(&words), Err(Stop::Error(expected)), "{words}");
        }
    }
}

#[test]
fn help_is_grouped_and_marks_what_is_missing() {
    let help = printed("-h");
    assert_eq!(printed("-help"), help);
    assert_eq!(printed("--h"), help);
    assert!(help.contains("\nusage: qemu [options] [disk_image]\n"));
    let places: Vec<_> =
        Group::ALL.iter().map(|group| help.find(&format!("\n{}:\n", group.title()))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
    assert!(help.contains("\n-usb            enable the USB driver (not supported yet)\n"));
    assert!(help.contains("\n-m megs         RAM size in megabytes, or with suffix M or G (default 128)\n"));
    let marked = OPTIONS.iter().flat_map(|row| row.forms).filter(|form| !form.supported).count();
    assert_eq!(help.lines().filter(|line| line.ends_with(" (not supported yet)")).count(), marked);
}

#[test]
fn alarm_timers_are_listed() {
    let list = printed("-clock ?");
    assert!(list.starts_with("Available alarm timers") && list.contains("\ndynticks "), "{list}");
}

#[test]
fn version_names_both() {
    assert_eq!(printed("-version"), usage::version());
    assert!(usage::version().starts_with("QEMU PC emulator version 0.10.4 "));
    assert!(usage::version().contains("Bulkhead"));
}
