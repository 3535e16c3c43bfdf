//! What the fuzz targets share. The properties are those of the property tests: see `tests::parsers`.

use std::sync::OnceLock;

use tests::parsers::{Target, target};

/// Hands an input to the target of this name, which panics if its parser breaks a property.
pub fn run(name: &str, input: &[u8]) {
    // A program has one target; finding it by name for each input would cost more than some parsers do.
    static TARGET: OnceLock<&'static Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| target(name).expect("every program here is named after a target"));
    (target.check)(input);
}
