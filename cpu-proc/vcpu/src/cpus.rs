//! The vCPUs and their threads. The first one runs on the main thread, which also serves the broker; whoever touches another one's
//! state has made them all stand first.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bulkhead_bus::trace;
use bulkhead_engine::{Code, CoreState, CpuBox};
use bulkhead_x86::Cpu;

use crate::alarm::Alarm;
use crate::machine::Pc;
use crate::shared::Shared;

/// A vCPU with its view of the machine.
pub struct Vcpu {
    /// The processor.
    pub cpu: CpuBox<Cpu>,
    /// Boxed: the CPU holds its address.
    pub pc: Box<Pc>,
}

#[derive(Default)]
struct State {
    /// The vCPUs besides the first may run.
    going: bool,
    /// How many of them stand.
    standing: usize,
}

/// Where the vCPUs besides the first wait while they may not run.
#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stands until it may run.
    fn pass(&self) {
        let mut state = self.lock();
        state.standing += 1;
        self.changed.notify_all();
        while !state.going {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.standing -= 1;
    }

    /// Lets nobody pass from now on.
    fn close(&self) {
        self.lock().going = false;
    }

    /// Waits until all `count` others stand.
    fn await_standing(&self, count: usize) {
        let mut state = self.lock();
        while state.standing < count {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self) {
        self.lock().going = true;
        self.changed.notify_all();
    }
}

/// The address of a vCPU's state, for its thread.
struct Core(*mut CoreState);

// SAFETY: handed to the one thread that runs the vCPU; others touch the state only while it stands at the gate.
unsafe impl Send for Core {}

impl Core {
    /// Runs the vCPU, for ever.
    fn run(self, gate: &Gate, shared: &Shared) -> ! {
        loop {
            gate.pass();
            // SAFETY: boxed and never dropped; nobody else uses it between the gate and the return to it.
            bulkhead_engine::run(unsafe { &mut *self.0 });
            // What ended the run of the machine is the main thread's to act on, before anybody goes on.
            if shared.is_departing() {
                gate.close();
            }
        }
    }
}

/// All vCPUs of the machine.
pub struct Cpus {
    all: Vec<Vcpu>,
    gate: Arc<Gate>,
    shared: Arc<Shared>,
    going: bool,
}

impl Cpus {
    /// Starts a thread for each vCPU but the first, which is the caller's; they stand. When this returns, they need no system calls of a
    /// start any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(mut all: Vec<Vcpu>, shared: Arc<Shared>) -> std::io::Result<Cpus> {
        let gate = Arc::new(Gate::default());
        shared.add_alarm(Alarm::new(0)?);
        for (number, vcpu) in all.iter_mut().enumerate().skip(1) {
            let core = Core(&raw mut vcpu.cpu.core);
            let (gate, machine) = (gate.clone(), shared.clone());
            let (say, hear) = std::sync::mpsc::channel();
            let run = move || {
                trace::run_cpu(number as u32);
                let alarm = Alarm::new(number);
                let failed = alarm.is_err();
                if say.send(alarm).is_ok() && !failed {
                    drop(say);
                    core.run(&gate, &machine);
                }
            };
            std::thread::Builder::new().name(format!("cpu{number}")).spawn(run)?;
            shared.add_alarm(hear.recv().map_err(std::io::Error::other)??);
        }
        let cpus = Cpus { all, gate, shared, going: false };
        cpus.gate.await_standing(cpus.others());
        Ok(cpus)
    }

    fn others(&self) -> usize {
        self.all.len() - 1
    }

    /// Makes all vCPUs but the caller's stand.
    pub fn stand(&mut self) {
        if std::mem::take(&mut self.going) {
            self.gate.close();
            (1..self.all.len()).for_each(|cpu| self.shared.call_off(cpu));
            self.gate.await_standing(self.others());
        }
    }

    /// Runs the machine until the first vCPU has to leave.
    pub fn run(&mut self) {
        if !std::mem::replace(&mut self.going, true) {
            self.gate.open();
        }
        if let Some(first) = self.all.first_mut() {
            bulkhead_engine::run(&mut first.cpu.core);
        }
    }

    /// Takes the processor that the first vCPU had better leave.
    pub fn take_crowded(&mut self) -> Option<u32> {
        self.all.first_mut()?.pc.crowded.take()
    }

    /// What they have compiled.
    pub fn code(&mut self) -> Arc<Code> {
        self.stand();
        self.shared.compiled.clone()
    }

    /// The vCPUs, which all stand.
    pub fn all(&mut self) -> &mut [Vcpu] {
        self.stand();
        &mut self.all
    }
}
