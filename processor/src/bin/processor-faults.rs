//! The processor for the fault suite: the same program, with the features that only this binary is built with. It has a
//! name of its own, so that it can't be taken for the product.

use std::process::ExitCode;

#[path = "../main.rs"]
mod product;

fn main() -> ExitCode {
    product::main()
}
