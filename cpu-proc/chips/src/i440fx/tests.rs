use super::*;

#[test]
fn each_nibble_covers_its_granule() {
    let mut config = [0u8; 256];
    config[0x5a] = 0x31;
    config[0x5f] = 0x20;
    config[0x59] = 0x10;
    let map = ShadowMap::from_config(&config);
    let at = |address| {
        let shadow = map.at(address).unwrap();
        (shadow.read_ram, shadow.write_ram)
    };
    assert_eq!(at(0xc_0000), (true, false));
    assert_eq!(at(0xc_7fff), (true, true));
    assert_eq!(at(0xc_8000), (false, false));
    assert_eq!(at(0xe_bfff), (false, false));
    assert_eq!(at(0xe_c000), (false, true));
    assert_eq!(at(0xf_0000), (true, false));
    assert_eq!(at(0xf_ffff), (true, false));
    assert_eq!(map.at(0xb_ffff), None);
    assert_eq!(map.at(0x10_0000), None);
    assert_eq!(map.at(u64::MAX), None);
}

#[test]
fn management_ram_opens_only_when_enabled() {
    let mut config = [0u8; 256];
    config[0x72] = 0x42;
    assert!(!ShadowMap::from_config(&config).smram_open);
    config[0x72] = 0x4a;
    assert!(ShadowMap::from_config(&config).smram_open);
}
