//! The agent as its users run it: real programs, a real core, real folders. One test program, so that it is linked once.

mod bad_input;
mod damage;
mod following;
mod hostile;
mod link;
mod operating;
mod policy;
mod publish;
mod reuse;
mod room;
mod subscribe;
mod support;
mod unmounted;
