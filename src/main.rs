//! The binary: calls the library's command line and ends with the exit status that it gives.
//!
//! All of orderd is in the library, and `cli::main` alone is public for the binary's sake.

fn main() -> std::process::ExitCode {
    orderd::cli::main()
}
