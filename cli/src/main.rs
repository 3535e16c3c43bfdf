//! The binary: the library's [`main`](sealstream::main), and nothing else.

fn main() -> std::process::ExitCode {
    sealstream::main()
}
