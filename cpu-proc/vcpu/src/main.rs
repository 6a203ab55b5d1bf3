//! `bh-cpu`: runs guest code. It maps guest RAM, the device rings and the firmware, enters its jail, and runs the virtual CPU
//! on its main thread; one more thread reads the control socket.

mod alarm;
mod control;
mod log;
mod machine;
mod physmap;
mod ports;
mod query;
mod setup;

use bulkhead_bus::messages::{FromCpu, ToCpu};
use bulkhead_engine::CpuBox;
use bulkhead_x86::Cpu;

use control::Control;
use machine::{Departure, Pc};

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
    cpu: CpuBox<Cpu>,
    /// Boxed: the CPU holds its address.
    pc: Box<Pc>,
    control: Control,
    running: bool,
    no_reboot: bool,
    /// A triple fault has been reported.
    faulted: bool,
}

impl Vm {
    /// Serves messages and runs the CPU, for ever.
    fn serve(&mut self) -> ! {
        self.control.send(&FromCpu::Ready);
        loop {
            while let Some(message) = self.control.take() {
                self.handle(message);
            }
            if self.running {
                bulkhead_engine::run(&mut self.cpu.core);
                if let Some(why) = self.pc.departure.take() {
                    self.depart(why);
                }
                if let Some(processor) = self.pc.crowded.take() {
                    self.control.send(&FromCpu::Crowded(processor));
                }
            } else {
                let control = &self.control;
                self.pc.irq.cpu_bell().sleep(None, || control.has_message());
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
                self.pc.refresh();
                self.control.send(&FromCpu::Running);
            }
            ToCpu::Reset => self.reset(),
            ToCpu::Nmi => self.pc.request_nmi(),
            ToCpu::PowerButton => {
                self.pc.board.press_power_button();
                self.pc.refresh();
            }
            ToCpu::Query { id, what } => {
                let result = query::answer(self, what);
                self.control.send(&FromCpu::Reply { id, result });
            }
            ToCpu::ReadMemory { id, cpu: _, linear, addr, len } => {
                let result = query::memory(self, linear, addr, len);
                self.control.send(&FromCpu::Reply { id, result });
            }
            ToCpu::Log(items) => {
                self.pc.log.mask = log::mask(&items);
                self.cpu.core.log = self.pc.log.mask;
                bulkhead_engine::flush_code(&mut self.cpu.core);
            }
            ToCpu::Quit => std::process::exit(0),
        }
    }

    fn reset(&mut self) {
        if self.cpu.core.log & bulkhead_engine::log::CPU_RESET != 0 {
            self.pc
                .log
                .line(bulkhead_engine::log::CPU_RESET, &format!("CPU Reset (CPU 0)\n{}", self.cpu.dump()));
        }
        self.pc.reset();
        self.cpu.reset();
    }

    fn depart(&mut self, why: Departure) {
        match why {
            Departure::Reset if self.no_reboot => {
                self.running = false;
                self.control.send(&FromCpu::GuestReset);
            }
            Departure::Reset => {
                self.reset();
                self.control.send(&FromCpu::GuestReset);
            }
            Departure::Shutdown => {
                // A triple fault resets a PC; its cause is in the registers of that moment. Some systems reset that way, and
                // a guest may do nothing else, so only the first is told.
                if !std::mem::replace(&mut self.faulted, true) {
                    self.control.send(&FromCpu::Note(format!("triple fault\n{}", self.cpu.dump())));
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
