//! What is known of the machine while the command line is being read, and its completion.

use bulkhead_config::{CharDevice, Geometry, Machine, MachineConfig, RtcBase, Target};

use crate::error::OptionError;
use crate::options::chardev;
use crate::options::drive::{self, DriveRequest};
use crate::options::numa::{self, NodeRequest};

/// Values that depend on each other stay apart from `config` until all options have been read.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Values that are final as soon as their option is read.
    pub config: MachineConfig,
    /// Drives in command-line order.
    pub drives: Vec<DriveRequest>,
    /// `-numa`, in order.
    pub nodes: Vec<NodeRequest>,
    /// `-hdachs`, with its spelling for messages.
    pub hda_geometry: Option<(String, Geometry)>,
    /// `-serial`, in order.
    pub serials: Vec<CharDevice>,
    /// `-parallel`, in order.
    pub parallels: Vec<CharDevice>,
    /// `-monitor`.
    pub monitor: CharDevice,
    /// `-localtime`.
    pub local_time: bool,
    /// `-startdate`, unless `now`.
    pub start_date: Option<i64>,
    /// `-vnc none`: the user does not expect a display.
    pub display_declined: bool,
}

impl Draft {
    /// The machine without options.
    pub fn new(program: &str, target: Target) -> Self {
        let config = MachineConfig::new(program, target);
        Draft {
            drives: Vec::new(),
            nodes: Vec::new(),
            hda_geometry: None,
            serials: Vec::new(),
            parallels: Vec::new(),
            monitor: config.monitor.clone(),
            local_time: false,
            start_date: None,
            display_declined: false,
            config,
        }
    }

    /// Applies defaults and the rules that span options.
    pub fn finish(self) -> Result<MachineConfig, OptionError> {
        let mut config = self.config;
        if config.kernel.is_none() {
            let only_with_kernel = |option: &str| {
                Err(OptionError::Value {
                    what: option.to_owned(),
                    reason: "only allowed with -kernel".to_owned(),
                })
            };
            if !config.append.is_empty() {
                return only_with_kernel("-append");
            }
            if config.initrd.is_some() {
                return only_with_kernel("-initrd");
            }
        }
        if config.icount.is_some() && config.cpus > 1 {
            return Err(OptionError::Value {
                what: "-icount".to_owned(),
                reason: "only with one CPU (-smp 1)".to_owned(),
            });
        }
        // SeaBIOS tells of nodes in an ACPI table, and makes and takes none where it finds no power management.
        let acpi_options = [
            ("-numa", !self.nodes.is_empty(), "to tell the guest of its nodes"),
            ("-acpitable", !config.acpi_tables.is_empty(), "to add a table to"),
        ];
        let given = acpi_options.into_iter().find(|(_, given, _)| *given);
        if let Some((option, _, purpose)) =
            given.filter(|_| config.machine == Machine::IsaPc || config.no_acpi)
        {
            let reason = if config.no_acpi { "needs ACPI (-no-acpi)" } else { "machine isapc has no ACPI" };
            return Err(OptionError::Value {
                what: option.to_owned(),
                reason: format!("{reason} {purpose}"),
            });
        }
        config.numa = numa::spread(self.nodes, config.ram_bytes, config.cpus)?;
        config.drives = drive::place(self.drives, self.hda_geometry, config.snapshot)?;
        (config.serials, config.parallels, config.monitor) =
            chardev::with_defaults(config.nographic, self.serials, self.parallels, self.monitor)?;
        // As in QEMU, a date wins over local time wherever each stands on the command line.
        config.rtc = match self.start_date {
            Some(seconds) => RtcBase::Start(seconds),
            None if self.local_time => RtcBase::Local,
            None => RtcBase::Utc,
        };
        Ok(config)
    }
}
