//! Drives: `-hda -hdb -hdc -hdd -cdrom -drive -hdachs`, the bare argument, and which IDE position each one gets.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bulkhead_config::{Cache, Drive, Geometry, Media, Translation};

use crate::draft::Draft;
use crate::error::{OptionError, Stop};
use crate::options::Given;
use crate::options::params::{Params, number, split_commas};

/// IDE positions: two channels of two.
const POSITIONS: u8 = 4;

/// Other image formats of QEMU 0.10.4.
const FORMATS_NOT_YET: &[&str] = &[
    "qcow2",
    "qcow",
    "cow",
    "vmdk",
    "cloop",
    "vpc",
    "bochs",
    "dmg",
    "parallels",
    "vvfat",
    "nbd",
    "host_device",
];

/// Where a drive wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// A fixed index.
    Index(u8),
    /// The first free one.
    Any,
    /// The first free unit on this channel.
    Bus(u8),
}

/// A drive as asked for, before positions are dealt out.
#[derive(Clone, Debug)]
pub struct DriveRequest {
    position: Position,
    /// `index` is not meaningful yet; `snapshot` is only what the option itself said.
    drive: Drive,
    /// `snapshot=` of the option itself, which overrides `-snapshot`.
    snapshot: Option<bool>,
}

/// The bare argument: hard disk 0.
pub fn bare(draft: &mut Draft, image: &OsStr) -> Result<(), OptionError> {
    let given = Given { name: "hda", value: image };
    fixed(draft, &given, 0, Media::Disk)
}

/// `-hda`.
pub fn hda(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    Ok(fixed(draft, given, 0, Media::Disk)?)
}

/// `-hdb`.
pub fn hdb(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    Ok(fixed(draft, given, 1, Media::Disk)?)
}

/// `-hdc`.
pub fn hdc(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    Ok(fixed(draft, given, 2, Media::Disk)?)
}

/// `-hdd`.
pub fn hdd(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    Ok(fixed(draft, given, 3, Media::Disk)?)
}

/// `-cdrom`.
pub fn cdrom(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    Ok(fixed(draft, given, 2, Media::Cdrom)?)
}

fn fixed(draft: &mut Draft, given: &Given, index: u8, media: Media) -> Result<(), OptionError> {
    let file = image(given, given.value, "")?;
    if file.is_none() {
        return Err(given.bad("empty file name"));
    }
    draft.drives.push(DriveRequest {
        position: Position::Index(index),
        drive: Drive { option: given.shown(), file, media, ..Drive::empty_cdrom() },
        snapshot: None,
    });
    Ok(())
}

/// An image's file name; the protocols `fat:` and `nbd:` of the manual (section 3.6) are not built yet.
fn image(given: &Given, name: &OsStr, prefix: &str) -> Result<Option<PathBuf>, OptionError> {
    let bytes = name.as_bytes();
    if bytes.starts_with(b"fat:") || bytes.starts_with(b"nbd:") {
        return Err(given.part_not_yet(&format!("{prefix}{}", name.to_string_lossy())));
    }
    Ok(if bytes.is_empty() { None } else { Some(name.into()) })
}

/// `-drive`.
pub fn drive(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    const KNOWN: &[&str] = &[
        "file", "if", "bus", "unit", "index", "media", "cyls", "heads", "secs", "trans", "snapshot", "cache",
        "format", "serial",
    ];
    let mut params = Params::new(given, &split_commas(given.value), KNOWN)?;
    let bad = |reason: String| Err(Stop::from(given.bad(reason)));

    match params.text("if")?.as_deref() {
        None | Some("ide") => {}
        Some(other @ ("scsi" | "sd" | "mtd" | "floppy" | "pflash" | "virtio")) => {
            return Err(given.part_not_yet(&format!("if={other}")).into());
        }
        Some(other) => {
            return bad(format!("if={other}: unknown interface: ide, scsi, sd, mtd, floppy, pflash, virtio"));
        }
    }

    let index = params.number("index", 0..=u64::from(POSITIONS) - 1)?;
    let bus = params.number("bus", 0..=1)?;
    let unit = params.number("unit", 0..=1)?;
    let position = match (index, bus, unit) {
        (Some(index), None, None) => Position::Index(index as u8),
        (Some(_), ..) => return bad("index= cannot be used with bus= and unit=".into()),
        (None, bus, Some(unit)) => Position::Index(bus.unwrap_or(0) as u8 * 2 + unit as u8),
        (None, Some(bus), None) => Position::Bus(bus as u8),
        (None, None, None) => Position::Any,
    };

    let media = match params.text("media")?.as_deref() {
        None | Some("disk") => Media::Disk,
        Some("cdrom") => Media::Cdrom,
        Some(other) => return bad(format!("media={other}: must be disk or cdrom")),
    };
    let geometry = drive_geometry(given, &mut params)?;
    if geometry.is_some() && media == Media::Cdrom {
        return bad("cyls, heads and secs are for disks only".into());
    }
    let snapshot = match params.text("snapshot")?.as_deref() {
        None => None,
        Some("on") => Some(true),
        Some("off") => Some(false),
        Some(other) => return bad(format!("snapshot={other}: must be on or off")),
    };
    let cache = match params.text("cache")?.as_deref() {
        None => None,
        // QEMU's source knows `off` as another word for `none`.
        Some("none" | "off") => Some(Cache::None),
        Some("writeback") => Some(Cache::Writeback),
        Some("writethrough") => Some(Cache::Writethrough),
        Some(other) => return bad(format!("cache={other}: must be none, writeback or writethrough")),
    };
    let format = params.text("format")?;
    match format.as_deref() {
        None | Some("raw") => {}
        Some("?") => return Err(Stop::Print("Supported formats: raw\n".to_owned())),
        Some(known) if FORMATS_NOT_YET.contains(&known) => {
            return Err(given.part_not_yet(&format!("format={known}")).into());
        }
        Some(other) => return bad(format!("format={other}: unknown format")),
    }
    let serial = params.text("serial")?;
    if let Some(text) = &serial
        && !((1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() || b == b' '))
    {
        return bad(format!("serial={text}: must be 1 to 20 ASCII characters"));
    }
    let file = image(given, &params.raw("file").unwrap_or_default(), "file=")?;
    if file.is_none() && media == Media::Disk {
        return bad("a disk needs file= (only a CD-ROM drive can be empty)".into());
    }
    draft.drives.push(DriveRequest {
        position,
        drive: Drive {
            option: given.shown(),
            file,
            media,
            geometry,
            cache,
            format,
            serial,
            ..Drive::empty_cdrom()
        },
        snapshot,
    });
    Ok(())
}

fn drive_geometry(given: &Given, params: &mut Params) -> Result<Option<Geometry>, OptionError> {
    let cylinders = params.number("cyls", 1..=16383)?;
    let heads = params.number("heads", 1..=16)?;
    let sectors = params.number("secs", 1..=63)?;
    let trans = params.text("trans")?;
    match (cylinders, heads, sectors) {
        (Some(cylinders), Some(heads), Some(sectors)) => Ok(Some(Geometry {
            cylinders: cylinders as u16,
            heads: heads as u8,
            sectors: sectors as u8,
            translation: match trans {
                None => Translation::Auto,
                Some(trans) => translation(given, &trans)?,
            },
        })),
        (None, None, None) if trans.is_some() => {
            Err(given.bad("trans= must be used with cyls=, heads= and secs="))
        }
        (None, None, None) => Ok(None),
        _ => Err(given.bad("cyls=, heads= and secs= belong together")),
    }
}

fn translation(given: &Given, text: &str) -> Result<Translation, OptionError> {
    match text {
        "none" => Ok(Translation::None),
        "lba" => Ok(Translation::Lba),
        "auto" => Ok(Translation::Auto),
        _ => Err(given.bad(format!("translation \"{text}\" must be none, lba or auto"))),
    }
}

/// `-hdachs c,h,s[,t]`.
pub fn hdachs(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let parts: Vec<&str> = given.text()?.split(',').collect();
    let (chs, trans) = match parts.as_slice() {
        [c, h, s] => ([*c, *h, *s], None),
        [c, h, s, t] => ([*c, *h, *s], Some(*t)),
        _ => return Err(given.bad("must be cylinders,heads,sectors[,translation]").into()),
    };
    let part = |text: &str, what: &str, max: u64| {
        number(text, 1..=max).map_err(|reason| given.bad(format!("{what}: {reason}")))
    };
    draft.hda_geometry = Some((
        given.shown(),
        Geometry {
            cylinders: part(chs[0], "cylinders", 16383)? as u16,
            heads: part(chs[1], "heads", 16)? as u8,
            sectors: part(chs[2], "sectors", 63)? as u8,
            translation: trans.map_or(Ok(Translation::Auto), |text| translation(given, text))?,
        },
    ));
    Ok(())
}

/// Gives every drive its position, in command-line order, and adds the empty CD-ROM drive where index 2 is free.
/// `-hdachs` goes to the hard disk at index 0; without one it has nothing to force, as in QEMU.
pub fn place(
    requests: Vec<DriveRequest>,
    hda_geometry: Option<(String, Geometry)>,
    snapshot: bool,
) -> Result<Vec<Drive>, OptionError> {
    let mut slots: [Option<Drive>; POSITIONS as usize] = [const { None }; POSITIONS as usize];
    for request in requests {
        let DriveRequest { position, mut drive, snapshot: own_snapshot } = request;
        let fail = |reason: String| Err(OptionError::Value { what: drive.option.clone(), reason });
        let candidates = match position {
            Position::Index(index) => index..index.saturating_add(1),
            Position::Bus(bus) => bus.saturating_mul(2)..bus.saturating_mul(2).saturating_add(2),
            Position::Any => 0..POSITIONS,
        };
        let free = candidates.clone().find(|&index| matches!(slots.get(usize::from(index)), Some(None)));
        let Some(index) = free else {
            return match (position, slots.get(usize::from(candidates.start))) {
                (Position::Index(index), Some(Some(other))) => {
                    fail(format!("IDE index {index} is already taken by {}", other.option))
                }
                (Position::Bus(bus), _) => fail(format!("IDE bus {bus} has no free unit")),
                _ => fail(format!("no free IDE position, a machine has {POSITIONS}")),
            };
        };
        drive.index = index;
        drive.snapshot = drive.media == Media::Disk && own_snapshot.unwrap_or(snapshot);
        if let Some(slot) = slots.get_mut(usize::from(index)) {
            *slot = Some(drive);
        }
    }
    if let (Some((shown, geometry)), Some(drive)) = (hda_geometry, &mut slots[0])
        && drive.media == Media::Disk
    {
        if drive.geometry.is_some() {
            return Err(OptionError::Value {
                what: shown,
                reason: format!("{} has a geometry of its own", drive.option),
            });
        }
        drive.geometry = Some(geometry);
    }
    slots[2].get_or_insert_with(Drive::empty_cdrom);
    Ok(slots.into_iter().flatten().collect())
}
