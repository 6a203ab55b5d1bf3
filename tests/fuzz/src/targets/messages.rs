//! Encoded messages: decoded or refused, and what was decoded encodes to itself.

use std::fmt::Debug;

use bulkhead_bus::chip::{Chip, Control};
use bulkhead_bus::config::{
    BlockConfig, CharConfig, DebugPortsConfig, FwCfgConfig, I8042Config, IdeConfig, RtcConfig, SerialConfig,
    VgaConfig,
};
use bulkhead_bus::manifest::Manifest;
use bulkhead_bus::messages::{CpuConfig, FromCpu, ToCpu};
use bulkhead_bus::storm::{self, Script, Setup};
use bulkhead_bus::wire;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ALONE;

fn round<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(value) = wire::decode::<T>(bytes) {
        // A number may be encoded longer than it needs; the second time it is not.
        let again = wire::encode(&value).expect("no longer than what it came from");
        assert_eq!(wire::decode::<T>(&again).expect("own encoding"), value);
    }
}

/// Every type that crosses a process boundary; the first byte chooses.
pub fn decode(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind % 13 {
        0 => round::<Manifest>(body),
        1 => round::<ToCpu>(body),
        2 => round::<FromCpu>(body),
        3 => round::<Control>(body),
        4 => round::<CpuConfig>(body),
        5 => round::<SerialConfig>(body),
        6 => round::<RtcConfig>(body),
        7 => round::<DebugPortsConfig>(body),
        8 => round::<FwCfgConfig>(body),
        9 => round::<IdeConfig>(body),
        10 => round::<BlockConfig>(body),
        11 => round::<CharConfig>(body),
        _ => round::<Vec<(String, u64)>>(body),
    }
}

/// A chip from a configuration, and a short storm over it.
fn short<C: Chip>(make: impl Fn() -> Option<C>, setup: Setup, bytes: &[u8]) {
    if make().is_some() {
        let make = || make().expect("it was built before");
        storm::storm(&make, &setup, &mut Script::new(bytes), 40, "input");
    }
}

/// Configurations come from the broker, which is trusted; but a chip that panics on one would never start again.
pub fn build(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let (body, script) = body.split_at(body.len() / 2);
    match kind % 7 {
        0 => short(
            || bulkhead_serial16550::Uart16550::from_config(body).ok(),
            Setup { bytes: 1, may_lower: &[(0, 0)], ..ALONE },
            script,
        ),
        1 => short(|| bulkhead_rtc146818::Rtc146818::from_config(body).ok(), ALONE, script),
        2 => short(|| bulkhead_i8042::I8042::from_config(body).ok(), ALONE, script),
        3 => {
            short(
                || bulkhead_debugports::DebugPorts::from_config(body).ok(),
                Setup { bytes: 1, ..ALONE },
                script,
            );
        }
        4 => {
            let setup = Setup { bulk: 0x2000, ram: true, ..ALONE };
            short(|| bulkhead_fwcfg::FwCfg::from_config(body).ok(), setup, script);
        }
        5 => {
            let make = || wire::decode(body).ok().map(bulkhead_piix3ide::Piix3Ide::new);
            short(
                make,
                Setup { blocks: 2, ram: true, takes_time: bulkhead_piix3ide::TRANSFERS, ..ALONE },
                script,
            );
        }
        _ => {
            round::<I8042Config>(body);
            // Large video memories are not mapped here.
            let small = |config: &VgaConfig| config.vram_bytes <= 1 << 20;
            let config = wire::decode::<VgaConfig>(body).ok().filter(small);
            let make = || config.clone().and_then(|config| bulkhead_vga::Vga::new(config).ok());
            short(make, Setup { bulk: 1 << 20, ..ALONE }, script);
        }
    }
}
