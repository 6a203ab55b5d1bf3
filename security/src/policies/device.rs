//! A register device: shared memory and bells, nothing else. The base is all it needs.

use super::Call;

pub const CALLS: &[Call] = &[];
