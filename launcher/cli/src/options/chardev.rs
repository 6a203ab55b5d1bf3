//! Host character devices: `-serial`, `-parallel`, `-monitor`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use bulkhead_config::CharDevice;

use crate::draft::Draft;
use crate::error::{OptionError, Stop};
use crate::options::Given;
use crate::options::params::number;

/// Serial ports of a PC.
pub const MAX_SERIALS: usize = 4;
/// Parallel ports of a PC.
pub const MAX_PARALLELS: usize = 3;

/// `-serial dev`.
pub fn serial(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    if draft.serials.len() >= MAX_SERIALS {
        return Err(given.bad(format!("at most {MAX_SERIALS} serial ports")).into());
    }
    let device = device(given, given.value)?;
    if is_parport(&device) {
        return Err(given.bad("a parallel port is for -parallel only").into());
    }
    draft.serials.push(device);
    Ok(())
}

/// `-parallel dev`.
pub fn parallel(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    if draft.parallels.len() >= MAX_PARALLELS {
        return Err(given.bad(format!("at most {MAX_PARALLELS} parallel ports")).into());
    }
    let device = device(given, given.value)?;
    if is_parport(&device) {
        return Err(given.not_yet().into());
    }
    draft.parallels.push(device);
    Ok(())
}

/// `-monitor dev`.
pub fn monitor(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let device = device(given, given.value)?;
    if is_parport(&device) {
        return Err(given.bad("a parallel port is for -parallel only").into());
    }
    draft.monitor = device;
    Ok(())
}

fn is_parport(device: &CharDevice) -> bool {
    match device {
        CharDevice::Tty(path) => path.as_os_str().as_bytes().starts_with(b"/dev/parport"),
        CharDevice::Mux(inner) => is_parport(inner),
        _ => false,
    }
}

/// Parses `spec`, which is the argument of `given` or what follows `mon:` in it.
fn device(given: &Given, spec: &OsStr) -> Result<CharDevice, OptionError> {
    let bytes = spec.as_bytes();
    let after = |prefix: &str| bytes.strip_prefix(prefix.as_bytes()).map(OsStr::from_bytes);
    match bytes {
        b"none" => return Ok(CharDevice::None),
        b"null" => return Ok(CharDevice::Null),
        b"stdio" => return Ok(CharDevice::Stdio),
        b"pty" => return Ok(CharDevice::Pty),
        b"vc" => return Ok(CharDevice::Vc),
        b"msmouse" | b"braille" => return Err(given.not_yet()),
        b"" => return Err(given.bad("no character device")),
        _ => {}
    }
    let file = |name: &OsStr| {
        if name.is_empty() { Err(given.bad("empty file name")) } else { Ok(name.into()) }
    };
    if let Some(inner) = after("mon:") {
        return match device(given, inner)? {
            CharDevice::Mux(_) => Err(given.bad("mon: inside mon:")),
            CharDevice::None => Err(given.bad("mon: needs a device")),
            inner => Ok(CharDevice::Mux(Box::new(inner))),
        };
    }
    if let Some(size) = after("vc:") {
        return match size.to_str().is_some_and(is_console_size) {
            true => Ok(CharDevice::Vc),
            false => Err(given.bad("console size must be WxH in pixels or WCxHC in characters")),
        };
    }
    if let Some(name) = after("file:") {
        return file(name).map(CharDevice::File);
    }
    if let Some(name) = after("pipe:") {
        return file(name).map(CharDevice::Pipe);
    }
    if let Some(socket) = after("unix:") {
        return unix(given, socket);
    }
    if let Some(socket) = after("tcp:") {
        let socket = socket.to_str().ok_or_else(|| given.bad("not valid UTF-8"))?;
        return tcp(given, socket);
    }
    if after("udp:").is_some() || after("telnet:").is_some() {
        return Err(given.not_yet());
    }
    if bytes.starts_with(b"/dev/") {
        return Ok(CharDevice::Tty(spec.into()));
    }
    if after("COM").is_some() {
        return Err(given.bad("COM ports are for Windows hosts only"));
    }
    Err(given.bad(format!(
        "unknown character device \"{}\": vc, pty, none, null, stdio, /dev/..., file:, pipe:, tcp:, unix: or mon:",
        spec.to_string_lossy()
    )))
}

/// `800x600` or `80Cx24C`; each side may have its own unit.
fn is_console_size(size: &str) -> bool {
    let side = |text: &str| number(text.strip_suffix('C').unwrap_or(text), 1..=0xffff).is_ok();
    size.split_once('x').is_some_and(|(width, height)| side(width) && side(height))
}

/// Flags after a socket's address.
#[derive(Default)]
struct SocketFlags {
    server: bool,
    nowait: bool,
    nodelay: bool,
}

impl SocketFlags {
    fn parse(given: &Given, words: &[&str], known: &[&str]) -> Result<Self, OptionError> {
        let mut flags = SocketFlags::default();
        for word in words {
            match *word {
                _ if !known.contains(word) => {
                    return Err(given.bad(format!("unknown flag \"{word}\": {}", known.join(", "))));
                }
                "server" => flags.server = true,
                "nowait" => flags.nowait = true,
                _ => flags.nodelay = true,
            }
        }
        Ok(flags)
    }

    /// Only a server can wait.
    fn wait(&self) -> bool {
        self.server && !self.nowait
    }
}

/// `path[,server][,nowait]`.
fn unix(given: &Given, socket: &OsStr) -> Result<CharDevice, OptionError> {
    /// `sun_path` of unix(7), less the closing zero.
    const MAX_PATH: usize = 107;
    let mut parts = socket.as_bytes().split(|&b| b == b',');
    let path = parts.next().unwrap_or_default();
    let words: Vec<_> = parts.map(String::from_utf8_lossy).collect();
    let words: Vec<&str> = words.iter().map(|word| &**word).collect();
    if path.is_empty() {
        return Err(given.bad("empty socket path"));
    }
    if path.len() > MAX_PATH {
        return Err(given.bad(format!("socket path longer than {MAX_PATH} bytes")));
    }
    let flags = SocketFlags::parse(given, &words, &["server", "nowait"])?;
    Ok(CharDevice::Unix { path: OsStr::from_bytes(path).into(), server: flags.server, wait: flags.wait() })
}

/// `[host]:port[,server][,nowait][,nodelay]`; an IPv6 address stands in brackets.
fn tcp(given: &Given, socket: &str) -> Result<CharDevice, OptionError> {
    let mut parts = socket.split(',');
    let address = parts.next().unwrap_or_default();
    let words: Vec<&str> = parts.collect();
    let flags = SocketFlags::parse(given, &words, &["server", "nowait", "nodelay"])?;
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => match rest.split_once("]:") {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, port),
            _ => return Err(given.bad("not an address of the form [IPv6]:port")),
        },
        None => address.rsplit_once(':').ok_or_else(|| given.bad("no port: tcp:[host]:port"))?,
    };
    if host.contains(':') && !address.starts_with('[') {
        return Err(given.bad("write an IPv6 address in brackets"));
    }
    // Port 0 asks the host for any free port, which makes sense only to listen on.
    let lowest = if flags.server { 0 } else { 1 };
    let port = number(port, lowest..=65535).map_err(|reason| given.bad(format!("port: {reason}")))?;
    Ok(CharDevice::Tcp {
        host: host.to_owned(),
        port: port as u16,
        server: flags.server,
        wait: flags.wait(),
        nodelay: flags.nodelay,
    })
}

/// What QEMU 0.10.4 does with the ports that were not named, and how the monitor and a serial port share standard
/// input and output. Returns serial ports, parallel ports, monitor.
pub fn with_defaults(
    nographic: bool,
    mut serials: Vec<CharDevice>,
    mut parallels: Vec<CharDevice>,
    mut monitor: CharDevice,
) -> Result<(Vec<CharDevice>, Vec<CharDevice>, CharDevice), OptionError> {
    if serials.is_empty() {
        serials.push(if nographic { CharDevice::Stdio } else { CharDevice::Vc });
    }
    if parallels.is_empty() {
        parallels.push(if nographic { CharDevice::Null } else { CharDevice::Vc });
    }
    if nographic && monitor == CharDevice::Vc {
        monitor = CharDevice::Stdio;
    }
    let on_stdio = |device: &CharDevice| match device {
        CharDevice::Mux(inner) => **inner == CharDevice::Stdio,
        device => *device == CharDevice::Stdio,
    };
    if on_stdio(&monitor)
        && let Some(serial) = serials.iter_mut().find(|serial| on_stdio(serial))
    {
        *serial = CharDevice::Mux(Box::new(CharDevice::Stdio));
        monitor = CharDevice::None;
    }
    let users = serials.iter().chain(&parallels).chain([&monitor]).filter(|device| on_stdio(device)).count();
    if users > 1 {
        return Err(OptionError::Value {
            what: format!("-{} stdio", if parallels.iter().any(on_stdio) { "parallel" } else { "serial" }),
            reason: "standard input and output are used twice".to_owned(),
        });
    }
    Ok((serials, parallels, monitor))
}
