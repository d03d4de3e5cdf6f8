//! The `headwater` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    headwater_client::cli::main()
}
