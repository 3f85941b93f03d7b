//! Configuration: what the operator decides, and where the time comes from. No I/O but reading the
//! configuration file.

pub mod clock;
pub mod policy;

pub use clock::Clock;
pub use policy::Policy;
