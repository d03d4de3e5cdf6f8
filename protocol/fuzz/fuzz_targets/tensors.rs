//! Fuzzes the body `tensors`; what it checks is said there.

#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::tensors(bytes));
