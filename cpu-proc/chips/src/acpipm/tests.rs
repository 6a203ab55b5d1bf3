use super::*;

fn config(pm: u16, enabled: bool) -> [u8; 256] {
    let mut config = [0; 256];
    config[0x40] = pm as u8 | 1;
    config[0x41] = (pm >> 8) as u8;
    config[0x80] = u8::from(enabled);
    config
}

#[test]
fn io_space_needs_its_enable_bit() {
    assert_eq!(Bases::from_config(&config(0x600, false)).pm, None);
    assert_eq!(Bases::from_config(&config(0x600, true)).pm, Some(0x600));
}

#[test]
fn timer_counts_at_its_frequency_and_wraps_at_24_bits() {
    assert_eq!(AcpiPm::timer(1_000_000_000), 3_579_545);
    let wrap = clock::time_of(1 << 24, TIMER_FREQUENCY);
    assert_eq!(AcpiPm::timer(wrap - 1), 0xff_ffff);
    assert_eq!(AcpiPm::timer(wrap), 0);
}

#[test]
fn timer_top_bit_raises_sci_when_enabled() {
    let mut pm = AcpiPm::new();
    pm.write_apm(APMC, ACPI_ENABLE, false);
    let half = clock::time_of(TIMER_HALF, TIMER_FREQUENCY);
    pm.write(PMSTS, u32::from(TMROF) << 16, 0xffff_0000, 0);
    assert_eq!(pm.next_deadline(), Some(half));
    pm.poll(half - 1);
    assert!(!pm.sci());
    pm.poll(half);
    assert!(pm.sci());
    pm.write(PMSTS, u32::from(TMROF), 0xffff, half);
    assert!(!pm.sci());
}

#[test]
fn timer_top_bit_is_noticed_once_by_processors_whose_looks_cross() {
    let mut pm = AcpiPm::new();
    let half = clock::time_of(TIMER_HALF, TIMER_FREQUENCY);
    pm.poll(half);
    pm.write(PMSTS, u32::from(TMROF), 0xffff, half);
    pm.poll(half - 1);
    assert_eq!(pm.read(PMSTS, half), 0);
}

#[test]
fn power_button_needs_enable_and_acpi_mode() {
    let mut pm = AcpiPm::new();
    pm.press_power_button();
    assert_eq!(pm.read(PMSTS, 0), 0x100);
    pm.write(PMSTS, 0x0100_0000, 0xffff_0000, 0);
    assert!(!pm.sci(), "not in ACPI mode");
    pm.write_apm(APMC, ACPI_ENABLE, false);
    assert_eq!(pm.read(PMCNTRL, 0) & 1, 1);
    assert!(pm.sci());
    pm.write(PMSTS, 0x100, 0xffff, 0);
    assert!(!pm.sci());
}

#[test]
fn status_bits_are_cleared_byte_by_byte() {
    let mut pm = AcpiPm::new();
    pm.press_power_button();
    pm.write(PMSTS, 0xff, 0xff, 0);
    assert_eq!(pm.read(PMSTS, 0), 0x100);
    pm.write(PMSTS, 0xff00, 0xff00, 0);
    assert_eq!(pm.read(PMSTS, 0), 0);
}

#[test]
fn suspend_types_end_as_the_dsdt_says() {
    let mut pm = AcpiPm::new();
    assert_eq!(pm.write(PMCNTRL, 0x0001, 0xffff, 0), None);
    assert_eq!(pm.write(PMCNTRL, 0x2001, 0xffff, 0), Some(PmEvent::PowerOff));
    assert_eq!(pm.write(PMCNTRL, 0x2401, 0xffff, 0), Some(PmEvent::Suspend));
    assert_eq!(pm.read(PMCNTRL, 0) & 0x2000, 0, "SUS_EN reads zero");
}

#[test]
fn apm_command_is_an_smi_only_when_enabled() {
    let mut pm = AcpiPm::new();
    assert_eq!(pm.write_apm(APMC, 0x55, false), None);
    assert_eq!(pm.write_apm(APMC, 0x56, true), Some(PmEvent::Smi));
    assert_eq!(pm.read_apm(APMC), 0x56);
    assert_eq!(pm.write_apm(APMS, 1, true), None);
    assert_eq!(pm.read_apm(APMS), 1);
}

#[test]
fn event_block_raises_sci() {
    let mut pm = AcpiPm::new();
    pm.write_apm(APMC, ACPI_ENABLE, false);
    pm.write_gpe(0x0002_0000, 0xffff_0000);
    pm.raise_gpe(1);
    pm.raise_gpe(200);
    assert!(pm.sci());
    pm.write_gpe(2, 0xffff);
    assert!(!pm.sci());
    assert_eq!(pm.read_gpe(), 0x0002_0000);
}

#[test]
fn smbus_address_answers_no_acknowledge() {
    let mut pm = AcpiPm::new();
    pm.write_smbus(4, 0xa1);
    pm.write_smbus(2, 0x48);
    assert_eq!(pm.read_smbus(0), SMB_DEV_ERR | SMB_INTR);
    assert_eq!(pm.read_smbus(2), 0x08);
    pm.write_smbus(0, 0xff);
    assert_eq!(pm.read_smbus(0), 0);
}
