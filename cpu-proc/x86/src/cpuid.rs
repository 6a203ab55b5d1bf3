//! CPU models and the CPUID instruction.

/// A CPU model of `-cpu`.
pub struct Model {
    /// Name as given to `-cpu`.
    pub name: &'static str,
}
