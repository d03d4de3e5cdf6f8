//! Memory into which answers come, and memory from which they are sent.

use std::fmt;
use std::ops::{Deref, DerefMut};

#[cfg(feature = "rdma")]
use crate::rdma::Registered;

/// A region of memory that stays where it is until the process ends, so that a device may know its address.
#[derive(Debug)]
pub struct Region {
    address: usize,
    len: usize,
}

impl Region {
    /// Takes `len` bytes for ever. The second value is the right to use them.
    pub fn take(len: usize) -> (Self, &'static mut [u8]) {
        let bytes: &'static mut [u8] = Box::leak(vec![0; len].into_boxed_slice());
        (Self { address: bytes.as_mut_ptr().expose_provenance(), len }, bytes)
    }

    /// Where it begins.
    pub const fn address(&self) -> usize {
        self.address
    }

    /// Number of bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Memory of a job into which the core puts an answer.
pub struct Slot(Memory);

enum Memory {
    Plain(Box<[u8]>),
    #[cfg(feature = "rdma")]
    Registered(Registered),
}

impl Slot {
    /// A slot of `len` bytes that no device knows.
    pub fn plain(len: usize) -> Self {
        Self(Memory::Plain(vec![0; len].into_boxed_slice()))
    }

    /// A slot that a device knows.
    #[cfg(feature = "rdma")]
    pub const fn registered(memory: Registered) -> Self {
        Self(Memory::Registered(memory))
    }

    /// The registered memory, or the slot as it is if no device knows it.
    #[cfg(feature = "rdma")]
    pub(crate) fn into_registered(self) -> Result<Registered, Self> {
        match self.0 {
            Memory::Registered(memory) => Ok(memory),
            Memory::Plain(_) => Err(self),
        }
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Plain(bytes) => bytes,
            #[cfg(feature = "rdma")]
            Memory::Registered(memory) => memory,
        }
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Plain(bytes) => bytes,
            #[cfg(feature = "rdma")]
            Memory::Registered(memory) => memory,
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({} bytes)", self.len())
    }
}
