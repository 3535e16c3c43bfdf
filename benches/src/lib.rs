//! Functions to be measured, and runs of the shipped binaries beside the floors (`src/bin/`).

pub mod allocations;
pub mod events;
pub mod figures;
pub mod floor;
pub mod functions;
pub mod idle;
pub mod load;
pub mod plot;
pub mod process;
pub mod processors;
pub mod servers;
pub mod usage;
