//! Register-level tests of the keyboard controller, the keyboard and the mouse.

use bulkhead_bus::bench::Bench;
use bulkhead_bus::chip::Control;
use bulkhead_bus::config::I8042Config;
use bulkhead_bus::conformance::{Setup, check};

use crate::spec::*;
use crate::{I8042, LINE_A20, LINE_IRQ1, LINE_IRQ12, LINE_RESET};

fn chip() -> I8042 {
    I8042::new(&I8042Config::default())
}

fn bench() -> Bench<I8042> {
    Bench::new(chip(), 0, 0, 0)
}

fn command(bench: &mut Bench<I8042>, byte: u8) {
    bench.write(COMMAND, 0, 1, byte.into());
}

fn data(bench: &mut Bench<I8042>, byte: u8) {
    bench.write(DATA, 0, 1, byte.into());
}

fn status(bench: &mut Bench<I8042>) -> u8 {
    bench.read(COMMAND, 0, 1) as u8
}

/// Everything that waits, with `true` for bytes of the auxiliary device.
fn drain(bench: &mut Bench<I8042>) -> Vec<(u8, bool)> {
    let mut bytes = Vec::new();
    while status(bench) & STATUS_OBF != 0 {
        let aux = status(bench) & STATUS_AUX != 0;
        bytes.push((bench.read(DATA, 0, 1) as u8, aux));
        assert!(bytes.len() < 1000);
    }
    bytes
}

fn bytes(bench: &mut Bench<I8042>) -> Vec<u8> {
    drain(bench).into_iter().map(|(byte, _)| byte).collect()
}

fn ask(bench: &mut Bench<I8042>, byte: u8) -> Vec<u8> {
    command(bench, byte);
    bytes(bench)
}

fn keyboard(bench: &mut Bench<I8042>, sent: &[u8]) -> Vec<u8> {
    let mut answers = Vec::new();
    for byte in sent {
        data(bench, *byte);
        answers.extend(bytes(bench));
    }
    answers
}

fn mouse(bench: &mut Bench<I8042>, sent: &[u8]) -> Vec<u8> {
    let mut answers = Vec::new();
    for byte in sent {
        command(bench, command::WRITE_AUX);
        data(bench, *byte);
        let got = drain(bench);
        assert!(got.iter().all(|(_, aux)| *aux));
        answers.extend(got.into_iter().map(|(byte, _)| byte));
    }
    answers
}

fn key(bench: &mut Bench<I8042>, code: u16, down: bool) {
    bench.control(&Control::Key { code, down }).expect("a key");
}

fn moved(bench: &mut Bench<I8042>, dx: i16, dy: i16, dz: i8, buttons: u8) {
    bench.control(&Control::Mouse { dx, dy, dz, buttons }).expect("a mouse");
}

fn mode(bench: &mut Bench<I8042>, mode: u8) {
    command(bench, command::WRITE);
    data(bench, mode);
}

#[test]
fn conforms() {
    check(chip, Setup::default());
    check(|| I8042::new(&I8042Config { mouse: false }), Setup::default());
}

#[test]
fn controller_commands_answer() {
    let mut bench = bench();
    assert_eq!(ask(&mut bench, command::SELF_TEST), [0x55]);
    assert_eq!(ask(&mut bench, command::TEST), [0x00]);
    assert_eq!(ask(&mut bench, command::AUX_TEST), [0x00]);
    assert_eq!(ask(&mut bench, command::READ_INPUT), [0x80]);
    assert_eq!(ask(&mut bench, command::TEST_PASSWORD), [0xf1]);
    mode(&mut bench, 0x47);
    assert_eq!(ask(&mut bench, command::READ), [0x47]);
    command(&mut bench, command::AUX_DISABLE);
    command(&mut bench, command::DISABLE);
    assert_eq!(ask(&mut bench, command::READ), [0x77]);
    command(&mut bench, command::AUX_ENABLE);
    command(&mut bench, command::ENABLE);
    assert_eq!(ask(&mut bench, command::READ), [0x47]);
    command(&mut bench, 0x65);
    data(&mut bench, 0x99);
    assert_eq!(ask(&mut bench, 0x25), [0x99]);
}

#[test]
fn status_tells_command_from_data_and_copies_the_system_flag() {
    let mut bench = bench();
    assert_eq!(status(&mut bench), STATUS_COMMAND | STATUS_UNLOCKED);
    mode(&mut bench, MODE_SYS);
    assert_eq!(status(&mut bench), STATUS_UNLOCKED | STATUS_SYS);
}

#[test]
fn loopback_commands_fill_the_output_buffer_from_either_source() {
    let mut bench = bench();
    command(&mut bench, command::WRITE_OBF);
    data(&mut bench, 0x12);
    command(&mut bench, command::WRITE_AUX_OBF);
    data(&mut bench, 0x34);
    assert!(bench.line(LINE_IRQ1) && !bench.line(LINE_IRQ12));
    assert_eq!(bench.read(DATA, 0, 1), 0x12);
    assert!(!bench.line(LINE_IRQ1) && bench.line(LINE_IRQ12));
    assert_eq!(drain(&mut bench), [(0x34, true)]);
    assert!(!bench.line(LINE_IRQ12));
}

#[test]
fn a20_and_reset_follow_the_output_port() {
    let mut bench = bench();
    assert!(bench.line(LINE_A20));
    command(&mut bench, command::WRITE_OUTPUT);
    data(&mut bench, 0xdd);
    assert!(!bench.line(LINE_A20));
    assert_eq!(ask(&mut bench, command::READ_OUTPUT)[0] & 3, 1);
    command(&mut bench, command::WRITE_OUTPUT);
    data(&mut bench, 0xdf);
    assert!(bench.line(LINE_A20));
    command(&mut bench, command::A20_OFF);
    assert!(!bench.line(LINE_A20));
    assert_eq!(bench.outputs().pulses[LINE_RESET], 0);
    command(&mut bench, 0xff);
    assert_eq!(bench.outputs().pulses[LINE_RESET], 0, "no bit pulsed");
    command(&mut bench, 0xfe);
    assert_eq!(bench.outputs().pulses[LINE_RESET], 1);
    command(&mut bench, command::WRITE_OUTPUT);
    data(&mut bench, 0x02);
    assert_eq!(bench.outputs().pulses[LINE_RESET], 2);
}

#[test]
fn keyboard_commands_answer_as_the_manual_says() {
    let mut bench = bench();
    assert_eq!(keyboard(&mut bench, &[0xff]), [ACK, 0xaa]);
    assert_eq!(keyboard(&mut bench, &[0xee]), [0xee]);
    assert_eq!(keyboard(&mut bench, &[0xf2]), [ACK, 0xab, 0x83]);
    assert_eq!(keyboard(&mut bench, &[0xed, 0x07]), [ACK, ACK]);
    assert_eq!(keyboard(&mut bench, &[0xf3, 0x20]), [ACK, ACK]);
    assert_eq!(keyboard(&mut bench, &[0xf0, 0x00]), [ACK, ACK, 2]);
    assert_eq!(keyboard(&mut bench, &[0xf0, 0x03, 0xf0, 0x00]), [ACK, ACK, ACK, ACK, 3]);
    assert_eq!(keyboard(&mut bench, &[0xf0, 0x07]), [ACK, RESEND]);
    assert_eq!(keyboard(&mut bench, &[0xf4]), [ACK], "a command takes the place of an argument");
    assert_eq!(keyboard(&mut bench, &[0xef]), [RESEND]);
    assert_eq!(keyboard(&mut bench, &[0xee, 0xfe]), [0xee, 0xee]);
}

#[test]
fn translated_identification_is_that_of_a_translated_keyboard() {
    let mut bench = bench();
    mode(&mut bench, MODE_TRANSLATE);
    assert_eq!(keyboard(&mut bench, &[0xf2]), [ACK, 0xab, 0x41]);
}

#[test]
fn keys_in_each_set_and_translated() {
    for (set, translated, press, release) in [
        (1, 0, vec![0x1e], vec![0x9e]),
        (2, 0, vec![0x1c], vec![0xf0, 0x1c]),
        (2, MODE_TRANSLATE, vec![0x1e], vec![0x9e]),
    ] {
        let mut bench = bench();
        keyboard(&mut bench, &[0xf0, set]);
        mode(&mut bench, MODE_INT | translated);
        key(&mut bench, 0x1e, true);
        assert!(bench.line(LINE_IRQ1));
        assert_eq!(bytes(&mut bench), press);
        key(&mut bench, 0x1e, false);
        assert_eq!(bytes(&mut bench), release);
    }
}

#[test]
fn translation_of_set_2_is_set_1_for_every_key() {
    let keys =
        (0x01..=0x53).chain([0x56, 0x57, 0x58]).chain([0x11c, 0x11d, 0x135, 0x138, 0x15b, 0x15c, 0x15d]);
    let keys = keys.chain(0x147..=0x149).chain([0x14b, 0x14d]).chain(0x14f..=0x153);
    for code in keys.filter(|code| *code != 0x54) {
        let mut bench = bench();
        mode(&mut bench, MODE_TRANSLATE);
        key(&mut bench, code, true);
        key(&mut bench, code, false);
        let low = code as u8;
        let expected = if code > 0xff { vec![0xe0, low, 0xe0, low | 0x80] } else { vec![low, low | 0x80] };
        assert_eq!(bytes(&mut bench), expected, "key {code:#x}");
    }
}

#[test]
fn print_screen_and_pause_are_translated_to_their_set_1_forms() {
    let mut bench = bench();
    mode(&mut bench, MODE_TRANSLATE);
    key(&mut bench, 0x137, true);
    key(&mut bench, 0x137, false);
    assert_eq!(bytes(&mut bench), [0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa]);
    key(&mut bench, 0x145, true);
    key(&mut bench, 0x145, false);
    assert_eq!(bytes(&mut bench), [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
    key(&mut bench, 0x38, true);
    bytes(&mut bench);
    key(&mut bench, 0x137, true);
    assert_eq!(bytes(&mut bench), [0x54], "with alternate: system request");
    key(&mut bench, 0x1d, true);
    bytes(&mut bench);
    key(&mut bench, 0x145, true);
    assert_eq!(bytes(&mut bench), [0xe0, 0x46, 0xe0, 0xc6], "with control: break");
}

#[test]
fn set_3_reports_releases_only_where_asked_to() {
    let mut bench = bench();
    mode(&mut bench, 0);
    keyboard(&mut bench, &[0xf0, 0x03]);
    key(&mut bench, 0x1e, true);
    key(&mut bench, 0x1e, false);
    key(&mut bench, 0x2a, true);
    key(&mut bench, 0x2a, false);
    assert_eq!(bytes(&mut bench), [0x1c, 0x12, 0xf0, 0x12]);
    keyboard(&mut bench, &[0xf8]);
    key(&mut bench, 0x148, true);
    key(&mut bench, 0x148, false);
    assert_eq!(bytes(&mut bench), [0x63, 0xf0, 0x63]);
}

#[test]
fn disabled_keyboard_drops_keys_and_disabled_clock_holds_them() {
    let mut bench = bench();
    assert_eq!(keyboard(&mut bench, &[0xf5]), [ACK]);
    key(&mut bench, 0x1e, true);
    assert_eq!(bytes(&mut bench), []);
    assert_eq!(keyboard(&mut bench, &[0xf4]), [ACK]);
    command(&mut bench, command::DISABLE);
    key(&mut bench, 0x1e, true);
    assert_eq!(bytes(&mut bench), []);
    command(&mut bench, command::ENABLE);
    assert_eq!(bytes(&mut bench), [0x1c]);
}

#[test]
fn answers_overtake_keys_and_every_byte_makes_an_edge() {
    let mut bench = bench();
    mode(&mut bench, MODE_INT | MODE_TRANSLATE);
    command(&mut bench, command::DISABLE);
    for code in [0x1e, 0x30] {
        key(&mut bench, code, true);
    }
    data(&mut bench, 0xee);
    assert_eq!(bytes(&mut bench), [0xee, 0x1e, 0x30]);
    assert_eq!(bench.outputs().pulses[LINE_IRQ1], 2);
}

#[test]
fn self_test_that_replaces_a_byte_makes_an_edge() {
    let mut bench = bench();
    mode(&mut bench, MODE_INT | MODE_TRANSLATE);
    key(&mut bench, 0x1e, true);
    assert_eq!((bench.outputs().level[LINE_IRQ1], bench.outputs().pulses[LINE_IRQ1]), (true, 0));
    assert_eq!(ask(&mut bench, command::SELF_TEST), [0x55]);
    assert_eq!(bench.outputs().pulses[LINE_IRQ1], 1);
}

#[test]
fn flood_of_keys_is_bounded_and_releases_still_fit() {
    let mut bench = bench();
    mode(&mut bench, MODE_TRANSLATE);
    for _ in 0..1000 {
        key(&mut bench, 0x1e, true);
    }
    key(&mut bench, 0x1e, false);
    let got = bytes(&mut bench);
    assert!(got.len() < 128);
    assert_eq!(got.last(), Some(&0x9e));
}

#[test]
fn mouse_reset_and_knock_give_the_three_ids() {
    let mut bench = bench();
    assert_eq!(mouse(&mut bench, &[0xff]), [ACK, 0xaa, 0]);
    assert_eq!(mouse(&mut bench, &[0xf2]), [ACK, 0]);
    mouse(&mut bench, &[0xf3, 200, 0xf3, 100, 0xf3, 80]);
    assert_eq!(mouse(&mut bench, &[0xf2]), [ACK, 3]);
    mouse(&mut bench, &[0xf3, 200, 0xf3, 200, 0xf3, 80]);
    assert_eq!(mouse(&mut bench, &[0xf2]), [ACK, 4]);
    assert_eq!(mouse(&mut bench, &[0xff, 0xf2]), [ACK, 0xaa, 0, ACK, 0]);
}

#[test]
fn mouse_packets_have_signs_buttons_and_wheel() {
    let mut bench = bench();
    moved(&mut bench, 5, 5, 0, 0);
    assert_eq!(bytes(&mut bench), [], "not enabled");
    assert_eq!(mouse(&mut bench, &[0xf4]), [ACK]);
    moved(&mut bench, 5, 3, 0, 1);
    assert!(bench.line(LINE_IRQ12));
    assert_eq!(drain(&mut bench), [(0x29, true), (5, true), (0xfd, true)]);
    moved(&mut bench, -2, 0, 1, 4);
    assert_eq!(bytes(&mut bench), [0x1c, 0xfe, 0]);
    mouse(&mut bench, &[0xf3, 200, 0xf3, 100, 0xf3, 80]);
    moved(&mut bench, 0, 0, -1, 0);
    assert_eq!(bytes(&mut bench), [0x08, 0, 0, 0xff]);
    mouse(&mut bench, &[0xf3, 200, 0xf3, 200, 0xf3, 80]);
    moved(&mut bench, 0, 0, 1, 0x10);
    assert_eq!(bytes(&mut bench), [0x08, 0, 0, 0x21]);
}

#[test]
fn large_motion_is_split_into_packets_that_add_up() {
    let mut bench = bench();
    mouse(&mut bench, &[0xf4]);
    moved(&mut bench, 1000, -700, 0, 0);
    let got = bytes(&mut bench);
    let sum = |at: usize, sign: u8| {
        let value = |packet: &[u8]| i32::from(packet[at]) - if packet[0] & sign != 0 { 256 } else { 0 };
        got.chunks_exact(3).map(value).sum::<i32>()
    };
    assert_eq!((sum(1, 0x10), sum(2, 0x20)), (1000, 700));
}

#[test]
fn mouse_status_remote_and_wrap_modes() {
    let mut bench = bench();
    assert_eq!(mouse(&mut bench, &[0xe8, 3, 0xf3, 40, 0xe7]), [ACK; 5]);
    moved(&mut bench, 0, 0, 0, 1);
    assert_eq!(mouse(&mut bench, &[0xe9]), [ACK, 0x14, 3, 40]);
    assert_eq!(mouse(&mut bench, &[0xf0]), [ACK]);
    moved(&mut bench, 4, 0, 0, 0);
    assert_eq!(bytes(&mut bench), [], "remote mode is silent");
    assert_eq!(mouse(&mut bench, &[0xeb]), [ACK, 0x08, 4, 0], "and unscaled");
    assert_eq!(mouse(&mut bench, &[0xee, 0x55, 0xf4]), [ACK, 0x55, 0xf4]);
    assert_eq!(mouse(&mut bench, &[0xec]), [ACK]);
    assert_eq!(mouse(&mut bench, &[0xf3, 77]), [ACK, RESEND]);
    assert_eq!(mouse(&mut bench, &[0xe1]), [RESEND]);
}

#[test]
fn motion_adds_up_while_the_guest_does_not_read() {
    let mut bench = bench();
    mouse(&mut bench, &[0xf4]);
    for _ in 0..500 {
        moved(&mut bench, 1, 0, 0, 0);
    }
    let got = bytes(&mut bench);
    assert_eq!(got.chunks_exact(3).map(|packet| u32::from(packet[1])).sum::<u32>(), 500);
}

#[test]
fn without_a_mouse_the_auxiliary_port_times_out() {
    let mut bench = Bench::new(I8042::new(&I8042Config { mouse: false }), 0, 0, 0);
    assert_eq!(mouse(&mut bench, &[0xff]), [RESEND]);
    assert!(bench.control(&Control::Mouse { dx: 1, dy: 0, dz: 0, buttons: 0 }).is_err());
}
