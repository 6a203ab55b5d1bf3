//! The control socket: a reader thread queues the broker's messages and makes the vCPU look.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};

use bulkhead_bus::irq::IrqPage;
use bulkhead_bus::messages::{FromCpu, PACKET_MAX, ToCpu};
use bulkhead_bus::wire;
use nix::sys::socket::{MsgFlags, recv, send};

/// This end of the control socket.
pub struct Control {
    socket: Arc<OwnedFd>,
    queue: Arc<Mutex<VecDeque<ToCpu>>>,
    waiting: Arc<AtomicBool>,
}

impl Control {
    /// Starts the reader thread; returns when it runs and needs no system calls of a start any more. The end of the broker
    /// ends this process. `waiting` is set while messages wait.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(socket: OwnedFd, irq: Arc<IrqPage>, waiting: Arc<AtomicBool>) -> std::io::Result<Control> {
        use std::os::fd::AsRawFd;
        let socket = Arc::new(socket);
        let queue = Arc::new(Mutex::new(VecDeque::new()));
        let (from, to, flag) = (socket.clone(), queue.clone(), waiting.clone());
        let gate = Arc::new(Barrier::new(2));
        let open = gate.clone();
        let read = move || {
            let mut packet = vec![0u8; PACKET_MAX];
            open.wait();
            loop {
                match recv(from.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                    Err(nix::errno::Errno::EINTR) => {}
                    Ok(0) | Err(_) => std::process::exit(0),
                    Ok(len) => {
                        if let Ok(message) = wire::decode(packet.get(..len).unwrap_or_default()) {
                            to.lock().unwrap_or_else(PoisonError::into_inner).push_back(message);
                            flag.store(true, Ordering::SeqCst);
                            irq.attend();
                        }
                    }
                }
            }
        };
        std::thread::Builder::new().name("control".to_owned()).spawn(read)?;
        gate.wait();
        Ok(Control { socket, queue, waiting })
    }

    /// Next message, if any.
    pub fn take(&self) -> Option<ToCpu> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let message = queue.pop_front();
        self.waiting.store(!queue.is_empty(), Ordering::SeqCst);
        message
    }

    /// Whether a message waits.
    pub fn has_message(&self) -> bool {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Sends a message. A broker that is gone ends this process in the reader thread.
    pub fn send(&self, message: &FromCpu) {
        use std::os::fd::AsRawFd;
        if let Ok(bytes) = wire::encode(message) {
            while send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL)
                == Err(nix::errno::Errno::EINTR)
            {}
        }
    }
}
