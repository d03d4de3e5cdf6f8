//! The channel by which a completion queue wakes a task.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

use ibverbs_sys as ffi;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::device::Domain;

/// A completion channel.
pub(super) struct Channel {
    /// In front of the channel, so that it is given up first.
    watched: Option<AsyncFd<Watched>>,
    pointer: NonNull<ffi::ibv_comp_channel>,
    /// Keeps the device open.
    _domain: Arc<Domain>,
}

// SAFETY: verbs may be called from any thread, and one thread at a time has the channel.
unsafe impl Send for Channel {}

struct Watched(RawFd);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Channel {
    /// A channel that nobody waits for.
    pub(super) fn new(domain: &Arc<Domain>) -> io::Result<Self> {
        // SAFETY: the device is open as long as `domain`.
        let channel = unsafe { ffi::ibv_create_comp_channel(domain.context()) };
        let channel = NonNull::new(channel).ok_or_else(io::Error::last_os_error)?;
        let channel = Self { watched: None, pointer: channel, _domain: Arc::clone(domain) };
        // SAFETY: the descriptor belongs to the channel, which is alive.
        let descriptor = unsafe { BorrowedFd::borrow_raw(channel.descriptor()) };
        let flags = rustix::fs::fcntl_getfl(descriptor)?;
        rustix::fs::fcntl_setfl(descriptor, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(channel)
    }

    pub(super) fn pointer(&self) -> *mut ffi::ibv_comp_channel {
        self.pointer.as_ptr()
    }

    fn descriptor(&self) -> RawFd {
        // SAFETY: the channel is alive.
        unsafe { self.pointer.as_ref() }.fd
    }

    /// Waits until there is an event.
    pub(super) async fn readable(&mut self) -> io::Result<()> {
        if self.watched.is_none() {
            let watched = Watched(self.descriptor());
            // SAFETY: the descriptor stays open until the channel is destroyed, and `drop` gives this up before.
            let watched = unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) };
            self.watched = Some(watched.map_err(io::Error::from)?);
        }
        let watched = self.watched.as_ref().expect("it is watched");
        // All events are taken before the next wait, so that the readiness is over then.
        watched.readable().await?.clear_ready();
        Ok(())
    }

    /// Takes all events, and says how many there were.
    pub(super) fn take_events(&mut self) -> u32 {
        let mut count = 0;
        loop {
            let (mut queue, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: the channel is alive and doesn't block.
            let found = unsafe { ffi::ibv_get_cq_event(self.pointer.as_ptr(), &raw mut queue, &raw mut context) };
            if found != 0 {
                return count;
            }
            count += 1;
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.watched = None;
        // SAFETY: the completion queue, which used it, is gone: it belongs to a value that has this one as a field.
        unsafe { ffi::ibv_destroy_comp_channel(self.pointer.as_ptr()) };
    }
}
