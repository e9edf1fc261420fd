//! The binary: all of it is in the library, so that nothing has to be public for its sake.

fn main() -> std::process::ExitCode {
    orderd::cli::main()
}
