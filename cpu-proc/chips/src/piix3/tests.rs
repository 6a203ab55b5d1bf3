use super::*;

#[test]
fn routes_need_the_enable_bit_and_a_possible_interrupt() {
    let mut config = [0u8; 256];
    config[0x60..0x64].copy_from_slice(&[0x0a, 0x8b, 0x0b, 0x08]);
    assert_eq!(pirq_routes(&config), [Some(10), None, Some(11), None]);
}

#[test]
fn reset_happens_on_the_rise_of_the_bit() {
    let mut register = 0;
    assert_eq!(write_reset_control(&mut register, 2), None);
    assert_eq!(write_reset_control(&mut register, 6), Some(Reset::Hard));
    assert_eq!(write_reset_control(&mut register, 6), None);
    assert_eq!(write_reset_control(&mut register, 0), None);
    assert_eq!(write_reset_control(&mut register, 4), Some(Reset::Soft));
}
