//! A value that many watch, as [`tokio::sync::watch`]; but those who wait are woken in the order in which they came, where
//! tokio draws lots. So in a simulated world the agent does the same each time.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

/// All senders are gone: the value never changes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody changes the value any more")]
pub struct Closed;

/// Changes the value.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// Watches the value.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

#[derive(Debug)]
struct Shared<T> {
    state: RwLock<State<T>>,
    changed: Notify,
    senders: AtomicUsize,
}

#[derive(Debug)]
struct State<T> {
    value: T,
    version: u64,
}

/// The value, which does not change while this lives: not to be held over an await.
#[derive(Debug)]
pub struct Ref<'a, T>(RwLockReadGuard<'a, State<T>>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<T>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Sender<T> {
    /// A value that nobody watches yet.
    pub fn new(value: T) -> Self {
        let state = RwLock::new(State { value, version: 0 });
        Self(Arc::new(Shared { state, changed: Notify::new(), senders: AtomicUsize::new(1) }))
    }

    /// Watches the value from now on: what it is now counts as seen.
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.read().version;
        Receiver { shared: Arc::clone(&self.0), seen }
    }

    /// The value.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.0.read())
    }

    /// Changes the value, and tells those who watch if `change` says so.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let mut state = self.0.write();
        let is_changed = change(&mut state.value);
        state.version += u64::from(is_changed);
        drop(state);
        if is_changed {
            self.0.changed.notify_waiters();
        }
        is_changed
    }

    /// Changes the value.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Puts another value in its place, and gives the old one.
    pub fn send_replace(&self, mut value: T) -> T {
        self.send_modify(|current| std::mem::swap(current, &mut value));
        value
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Receiver<T> {
    /// The value, which counts as seen now.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let state = self.shared.read();
        self.seen = state.version;
        Ref(state)
    }

    /// What the value is now counts as seen.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.shared.read().version;
    }

    /// Resolves when there is a value that was not seen; it is then. Cancel-safe.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        let seen = self.seen;
        let version = self.until(|state| (state.version != seen).then_some(state.version)).await?;
        self.seen = version;
        Ok(())
    }

    /// Resolves when `is_wanted` holds of the value. Cancel-safe.
    pub async fn wait_for(&mut self, mut is_wanted: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, Closed> {
        loop {
            self.until(|state| is_wanted(&state.value).then_some(())).await?;
            let state = self.shared.read();
            // It may have changed again meanwhile.
            if is_wanted(&state.value) {
                self.seen = state.version;
                return Ok(Ref(state));
            }
        }
    }

    async fn until<R>(&self, mut found: impl FnMut(&State<T>) -> Option<R>) -> Result<R, Closed> {
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(found) = found(&self.shared.read()) {
                return Ok(found);
            }
            if self.shared.senders.load(Ordering::Acquire) == 0 {
                return Err(Closed);
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_are_seen_once_and_waiters_wake_in_order() {
        let sender = Sender::new(0);
        let mut receiver = sender.subscribe();
        assert_eq!(sender.send_replace(1), 0);
        assert!(!sender.send_if_modified(|_| false));
        receiver.changed().await.expect("a change");
        assert_eq!(*receiver.borrow_and_update(), 1);
        sender.send_modify(|value| *value += 1);
        receiver.mark_unchanged();

        let (woken, mut order) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..20 {
            let (mut receiver, woken) = (sender.subscribe(), woken.clone());
            tokio::spawn(async move {
                let value = *receiver.wait_for(|value| *value == 5).await.expect("it comes");
                woken.send((number, value)).expect("heard");
            });
        }
        for value in 3..=5 {
            tokio::task::yield_now().await;
            sender.send_replace(value);
        }
        for number in 0..20 {
            assert_eq!(order.recv().await, Some((number, 5)));
        }
        drop(sender);
        receiver.changed().await.expect("what was not seen");
        assert_eq!(receiver.changed().await, Err(Closed));
        assert!(receiver.wait_for(|value| *value == 9).await.is_err());
    }
}
