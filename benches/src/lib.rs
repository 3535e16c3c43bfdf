//! Criterion benches of single functions (`benches/`), and runs of the shipped binaries beside bare loops (`src/bin/`).

pub mod events;
pub mod floor;
pub mod usage;
