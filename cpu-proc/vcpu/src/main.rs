//! `bh-cpu`: runs guest code. It maps guest RAM, the device rings and the firmware, enters its jail, and runs the virtual CPUs,
//! the first on its main thread and a thread for each other; one more reads the control socket.

mod alarm;
mod control;
mod cpus;
mod log;
mod machine;
mod physmap;
mod ports;
mod profile;
mod query;
mod setup;
mod shared;
mod time;

use std::sync::Arc;

use bulkhead_bus::messages::{FromCpu, ToCpu};
use bulkhead_engine::{Engine, log as items};

use control::Control;
use cpus::Cpus;
use shared::{Departure, Shared};

fn main() {
    let error = match setup::start() {
        Ok(mut vm) => vm.serve(),
        Err(error) => error,
    };
    eprintln!("bh-cpu: {error}");
    std::process::exit(1)
}

/// The virtual machine's CPU side.
pub struct Vm {
    cpus: Cpus,
    shared: Arc<Shared>,
    control: Control,
    running: bool,
    no_reboot: bool,
    /// The guest has reset the machine, and the broker has not yet: the CPUs stand.
    resetting: bool,
    /// A triple fault has been reported.
    faulted: bool,
}

impl Vm {
    /// Serves messages and runs the CPUs, for ever.
    fn serve(&mut self) -> ! {
        self.control.send(&FromCpu::Ready);
        loop {
            while let Some(message) = self.control.take() {
                self.cpus.stand();
                self.handle(message);
            }
            if self.running && !self.resetting {
                self.cpus.run();
                if self.shared.is_departing() {
                    self.cpus.stand();
                    if let Some(why) = self.shared.take_departure() {
                        self.depart(why);
                    }
                }
                if let Some(processor) = self.cpus.take_crowded() {
                    self.control.send(&FromCpu::Crowded(processor));
                }
            } else {
                let control = &self.control;
                self.shared.irq.cpu_bell().sleep(None, || control.has_message());
            }
        }
    }

    fn handle(&mut self, message: ToCpu) {
        match message {
            ToCpu::Stop => {
                self.running = false;
                self.control.send(&FromCpu::Stopped);
            }
            ToCpu::Cont => {
                self.running = true;
                self.shared.refresh();
                self.control.send(&FromCpu::Running);
            }
            ToCpu::Reset => self.reset(),
            ToCpu::Nmi(cpu) => self.shared.request_nmi(cpu),
            ToCpu::PowerButton => {
                self.shared.chips().board.press_power_button();
                self.shared.refresh();
            }
            ToCpu::Query { id, what } => {
                let result = query::answer(self, what);
                self.control.send(&FromCpu::Reply { id, result });
            }
            ToCpu::ReadMemory { id, cpu, linear, addr, len } => {
                let result = query::memory(self, cpu, linear, addr, len);
                self.control.send(&FromCpu::Reply { id, result });
            }
            ToCpu::Log(items) => {
                self.shared.log.set(&items);
                let mask = self.shared.log.mask();
                for vcpu in self.cpus.all() {
                    vcpu.cpu.core.log = mask;
                    bulkhead_engine::flush_code(&mut vcpu.cpu.core);
                }
            }
            ToCpu::SingleStep(on) => {
                for vcpu in self.cpus.all() {
                    Engine::of(&mut vcpu.cpu.core).single_step = on;
                    bulkhead_engine::flush_code(&mut vcpu.cpu.core);
                }
            }
            ToCpu::Quit => std::process::exit(0),
        }
    }

    fn reset(&mut self) {
        self.resetting = false;
        let log = &self.shared.log;
        if log.has(items::CPU_RESET) {
            for (number, vcpu) in self.cpus.all().iter().enumerate() {
                log.line(items::CPU_RESET, &format!("CPU Reset (CPU {number})\n{}", vcpu.cpu.dump()));
            }
        }
        self.shared.reset();
        for vcpu in self.cpus.all() {
            vcpu.cpu.reset();
        }
    }

    fn depart(&mut self, why: Departure) {
        match why {
            Departure::Reset if self.no_reboot => {
                self.running = false;
                self.control.send(&FromCpu::GuestReset);
            }
            Departure::Reset => {
                // By way of the broker: what it had given up is to be there, and be reset, before the firmware looks.
                self.resetting = true;
                self.control.send(&FromCpu::GuestReset);
            }
            Departure::Shutdown(cpu) => {
                // A triple fault resets a PC; its cause is in the registers of that moment. Some systems reset that way, and
                // a guest may do nothing else, so only the first is told.
                if !std::mem::replace(&mut self.faulted, true)
                    && let Some(vcpu) = self.cpus.all().get(cpu)
                {
                    let whose = if self.shared.is_smp() { format!(" of CPU {cpu}") } else { String::new() };
                    self.control.send(&FromCpu::Note(format!("triple fault{whose}\n{}", vcpu.cpu.dump())));
                }
                self.depart(Departure::Reset);
            }
            Departure::PowerOff => {
                self.running = false;
                self.control.send(&FromCpu::PowerOff);
            }
            Departure::Exit(value) => {
                self.running = false;
                self.control.send(&FromCpu::Exit(value));
            }
        }
    }
}
