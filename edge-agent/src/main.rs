//! The program `edge-agent`: all of it is in the library.

fn main() -> std::process::ExitCode {
    edge_agent::cli::main()
}
