//! Registers of the 16550A, after National Semiconductor "PC16550D Universal Asynchronous Receiver/Transmitter with FIFOs"
//! (June 1995), section 8.

/// Receiver buffer (RO) and transmitter holding (WO); divisor latch low (RW) while LCR.DLAB.
pub const RBR_THR_DLL: u64 = 0;
/// Interrupt enable (RW); divisor latch high (RW) while LCR.DLAB.
pub const IER_DLM: u64 = 1;
/// Interrupt identification (RO) and FIFO control (WO).
pub const IIR_FCR: u64 = 2;
/// Line control, RW.
pub const LCR: u64 = 3;
/// Modem control, RW.
pub const MCR: u64 = 4;
/// Line status, RO.
pub const LSR: u64 = 5;
/// Modem status, RO.
pub const MSR: u64 = 6;
/// Scratch, RW.
pub const SCR: u64 = 7;

/// IER: received data available (and character time-out).
pub const IER_ERBFI: u8 = 1 << 0;
/// IER: transmitter holding register empty.
pub const IER_ETBEI: u8 = 1 << 1;
/// IER: receiver line status.
pub const IER_ELSI: u8 = 1 << 2;
/// IER: modem status.
pub const IER_EDSSI: u8 = 1 << 3;
/// IER bits that exist.
pub const IER_MASK: u8 = 0x0f;

/// IIR: no interrupt pending (bit 0 is low when one is).
pub const IIR_NONE: u8 = 0x01;
/// IIR: modem status, lowest priority.
pub const IIR_MODEM: u8 = 0x00;
/// IIR: transmitter holding register empty.
pub const IIR_THRE: u8 = 0x02;
/// IIR: received data available.
pub const IIR_DATA: u8 = 0x04;
/// IIR: receiver line status, highest priority.
pub const IIR_LINE: u8 = 0x06;
/// IIR: character time-out.
pub const IIR_TIMEOUT: u8 = 0x0c;
/// IIR: FIFOs enabled.
pub const IIR_FIFOS: u8 = 0xc0;

/// FCR: FIFOs enabled; must be set for the other bits to act.
pub const FCR_ENABLE: u8 = 1 << 0;
/// FCR: clear the receiver FIFO, self-clearing.
pub const FCR_CLEAR_RX: u8 = 1 << 1;
/// FCR: clear the transmitter FIFO, self-clearing.
pub const FCR_CLEAR_TX: u8 = 1 << 2;
/// FCR bits that are kept: enable, DMA mode, trigger level.
pub const FCR_KEPT: u8 = 0xc9;

/// LCR: word length select, 5 to 8 bits.
pub const LCR_WLS: u8 = 0x03;
/// LCR: more than one stop bit.
pub const LCR_STB: u8 = 1 << 2;
/// LCR: parity enable.
pub const LCR_PEN: u8 = 1 << 3;
/// LCR: set break.
pub const LCR_BREAK: u8 = 1 << 6;
/// LCR: divisor latch access.
pub const LCR_DLAB: u8 = 1 << 7;

/// MCR: data terminal ready.
pub const MCR_DTR: u8 = 1 << 0;
/// MCR: request to send.
pub const MCR_RTS: u8 = 1 << 1;
/// MCR: output 1.
pub const MCR_OUT1: u8 = 1 << 2;
/// MCR: output 2.
pub const MCR_OUT2: u8 = 1 << 3;
/// MCR: loopback.
pub const MCR_LOOP: u8 = 1 << 4;
/// MCR bits that exist.
pub const MCR_MASK: u8 = 0x1f;

/// LSR: data ready.
pub const LSR_DR: u8 = 1 << 0;
/// LSR: overrun error.
pub const LSR_OE: u8 = 1 << 1;
/// LSR: parity error.
pub const LSR_PE: u8 = 1 << 2;
/// LSR: framing error.
pub const LSR_FE: u8 = 1 << 3;
/// LSR: break interrupt.
pub const LSR_BI: u8 = 1 << 4;
/// LSR: transmitter holding register (FIFO) empty.
pub const LSR_THRE: u8 = 1 << 5;
/// LSR: transmitter empty.
pub const LSR_TEMT: u8 = 1 << 6;
/// LSR: an error somewhere in the receiver FIFO.
pub const LSR_FIFO_ERROR: u8 = 1 << 7;
/// LSR bits that a read clears.
pub const LSR_ERRORS: u8 = LSR_OE | LSR_PE | LSR_FE | LSR_BI;

/// MSR: trailing edge of RI. The other delta bits lie four below their lines.
pub const MSR_TERI: u8 = 1 << 2;
/// MSR: delta bits, cleared by a read.
pub const MSR_DELTAS: u8 = 0x0f;
/// MSR: clear to send.
pub const MSR_CTS: u8 = 1 << 4;
/// MSR: data set ready.
pub const MSR_DSR: u8 = 1 << 5;
/// MSR: ring indicator.
pub const MSR_RI: u8 = 1 << 6;
/// MSR: data carrier detect.
pub const MSR_DCD: u8 = 1 << 7;

/// Bytes of each FIFO.
pub const FIFO: usize = 16;
/// Divisor after power-on here: 9600 bit/s (the data sheet leaves it undefined).
pub const DIVISOR: u16 = 12;
