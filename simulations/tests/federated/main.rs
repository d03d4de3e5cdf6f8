//! Federated runs with real processes: cores and agents as an operator runs them, training programs as users write them, and
//! SIGKILL on both sides.
//!
//! The programs are shell scripts, so that nothing but a shell is needed. A model whose metadata says that a file holds differences
//! is its own update: a program that copies it doubles each number, and what comes out of a round can be computed by head.

mod lab;
mod programs;
mod rounds;
mod trouble;
