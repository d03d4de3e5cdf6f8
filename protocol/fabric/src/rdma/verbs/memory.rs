//! Memory that a device knows.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use ibverbs_sys as ffi;

use super::device::Domain;
use crate::memory::Region;

/// Where a peer may write, and the key that lets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteMemory {
    /// Address in the other process.
    pub address: u64,
    /// Bytes from there on.
    pub len: u64,
    /// The key of the registration.
    pub key: u32,
}

impl RemoteMemory {
    /// The part from `offset` on; none if it doesn't lie within.
    pub fn part(&self, offset: u64, len: u64) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then_some(Self { address: self.address + offset, len, key: self.key })
    }
}

/// Memory that is registered with a device, and unregistered when this value goes.
pub struct Registered {
    region: NonNull<ffi::ibv_mr>,
    /// Whether a peer may write here.
    open: bool,
    /// From `Box::into_raw`: a box would promise the compiler that nobody else writes here.
    bytes: NonNull<[u8]>,
    domain: Arc<Domain>,
}

// SAFETY: a registration belongs to no thread; verbs lock what they share, and its fields are only read.
unsafe impl Send for Registered {}
// SAFETY: as above; through a shared reference only `bytes` and keys are read.
unsafe impl Sync for Registered {}

impl Registered {
    /// Memory that the device may read from, for what is sent.
    pub fn for_sending(domain: &Arc<Domain>, bytes: Box<[u8]>) -> io::Result<Self> {
        Self::new(domain, bytes, false)
    }

    /// Memory into which the device may write, and the peer who is told its [`RemoteMemory`].
    pub fn for_receiving(domain: &Arc<Domain>, bytes: Box<[u8]>) -> io::Result<Self> {
        Self::new(domain, bytes, true)
    }

    fn new(domain: &Arc<Domain>, bytes: Box<[u8]>, open: bool) -> io::Result<Self> {
        let access = if open {
            ffi::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0 | ffi::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0
        } else {
            0
        };
        let access = i32::try_from(access).expect("flags are small");
        let len = bytes.len();
        let bytes = NonNull::from(Box::leak(bytes));
        // SAFETY: the protection domain lives as long as `domain`, which this value keeps; the bytes stay where they are until `drop` has
        // taken the registration back.
        let region = unsafe { ffi::ibv_reg_mr(domain.protection(), bytes.as_ptr().cast(), len, access) };
        if let Some(region) = NonNull::new(region) {
            return Ok(Self { region, open, bytes, domain: Arc::clone(domain) });
        }
        let error = io::Error::last_os_error();
        // SAFETY: they were leaked above, and the device has not taken them.
        drop(unsafe { Box::from_raw(bytes.as_ptr()) });
        Err(error)
    }

    /// What a peer has to know to write here; none for memory that it may not write.
    pub fn remote(&self) -> Option<RemoteMemory> {
        // SAFETY: the registration is alive.
        let key = unsafe { self.region.as_ref() }.rkey;
        self.open.then(|| RemoteMemory { address: self.address(), len: self.len() as u64, key })
    }

    pub(super) fn address(&self) -> u64 {
        self.bytes.cast::<u8>().addr().get() as u64
    }

    /// The bytes `range`, which the device may be writing beside.
    ///
    /// # Safety
    ///
    /// The device writes none of this range while it is copied.
    pub(super) unsafe fn copy(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        assert!(range.start <= range.end && range.end <= self.bytes.len(), "a range of this memory");
        // SAFETY: the range lies within, and the caller sees to it that nobody writes there.
        unsafe { std::slice::from_raw_parts(self.bytes.cast::<u8>().as_ptr().add(range.start), range.len()) }.to_vec()
    }

    pub(super) fn local_key(&self) -> u32 {
        // SAFETY: the registration is alive.
        unsafe { self.region.as_ref() }.lkey
    }

    pub(super) fn is_of(&self, domain: &Arc<Domain>) -> bool {
        Arc::ptr_eq(&self.domain, domain)
    }
}

impl Deref for Registered {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are ours; memory into which somebody may write is lent, and who lends it gives this value away.
        unsafe { self.bytes.as_ref() }
    }
}

impl DerefMut for Registered {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the device only reads from what is shared with it, and shared values are not mutable.
        unsafe { self.bytes.as_mut() }
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("len", &self.len()).field("open", &self.open).finish_non_exhaustive()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: it was made by `ibv_reg_mr` and nobody else knows it. Every request that named this memory is over: queues keep what
        // their requests name.
        let failed = unsafe { ffi::ibv_dereg_mr(self.region.as_ptr()) };
        if failed == 0 {
            // SAFETY: they came from a box, and now nobody else uses them. Where the registration stays, the device may go on, so they
            // are never given to anybody else.
            drop(unsafe { Box::from_raw(self.bytes.as_ptr()) });
        }
    }
}

/// A region of memory that stays until the process ends, registered so that the device may read from it.
pub struct RegisteredRegion {
    region: NonNull<ffi::ibv_mr>,
    start: usize,
    len: usize,
    domain: Arc<Domain>,
}

// SAFETY: a registration belongs to no thread, and its fields are only read.
unsafe impl Send for RegisteredRegion {}
// SAFETY: as above.
unsafe impl Sync for RegisteredRegion {}

impl RegisteredRegion {
    /// Registers a region.
    pub fn new(domain: &Arc<Domain>, region: &Region) -> io::Result<Self> {
        let (start, len) = (region.address(), region.len());
        // SAFETY: the protection domain lives as long as `domain`, and the region for ever.
        let registered =
            unsafe { ffi::ibv_reg_mr(domain.protection(), std::ptr::with_exposed_provenance_mut(start), len, 0) };
        let registered = NonNull::new(registered).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { region: registered, start, len, domain: Arc::clone(domain) })
    }

    /// Whether all of `bytes` lies in the region.
    pub(super) fn contains(&self, bytes: &[u8]) -> bool {
        let start = bytes.as_ptr().addr();
        start >= self.start && start - self.start <= self.len && bytes.len() <= self.len - (start - self.start)
    }

    pub(super) fn local_key(&self) -> u32 {
        // SAFETY: the registration is alive.
        unsafe { self.region.as_ref() }.lkey
    }

    pub(super) fn is_of(&self, domain: &Arc<Domain>) -> bool {
        Arc::ptr_eq(&self.domain, domain)
    }
}

impl fmt::Debug for RegisteredRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisteredRegion").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for RegisteredRegion {
    fn drop(&mut self) {
        // SAFETY: it was made by `ibv_reg_mr` and nobody else knows it; queues keep what their requests name. Should it fail, the memory stays
        // all the same.
        unsafe { ffi::ibv_dereg_mr(self.region.as_ptr()) };
    }
}
