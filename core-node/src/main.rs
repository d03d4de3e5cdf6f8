//! The `core-node` binary: everything is in the library, so that tests and the simulation run the same code.

fn main() -> std::process::ExitCode {
    core_node::cli::main()
}
