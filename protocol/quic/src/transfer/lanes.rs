//! Item streams in the order of their classes: [`Turns`] says which goes first, quinn's stream priorities carry it out.
//!
//! quinn takes up a stream's new priority only after it has sent something under the old one. So each new order lies below the
//! one before: whatever stream is still queued under an old order goes first, for one packet, and then under the new one.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use headwater_protocol::sync::{CLASSES, Turns};
use quinn::{SendStream, WriteError};
use tokio::sync::watch;

use crate::framing::CONTROL_PRIORITY;
use crate::session::Priority;

/// What each class may have in the connection's send window beyond what the next less urgent one may.
const ROOM_BYTES: u64 = 512 << 10;

/// The send window of one connection. quinn keeps all that is written and not yet acknowledged within it, whatever its
/// priority: bulk would fill it, and what is urgent could not even be written. So the more urgent something is, the larger is the window
/// for the moment in which it is written.
#[derive(Debug)]
pub(crate) struct Room {
    connection: quinn::Connection,
    window_bytes: u64,
}

impl Room {
    pub(crate) fn new(connection: quinn::Connection, window_bytes: u64) -> Self {
        Self { connection, window_bytes }
    }

    /// Writes what belongs to a class; none is control.
    pub(crate) async fn write<T>(&self, class: Option<usize>, write: impl Future<Output = T>) -> T {
        let steps = class.map_or(CLASSES, |class| CLASSES - 1 - class);
        if steps == 0 {
            return write.await;
        }
        let mut write = pin!(write);
        poll_fn(|cx| {
            self.connection.set_send_window(self.window_bytes + steps as u64 * ROOM_BYTES);
            let polled = write.as_mut().poll(cx);
            self.connection.set_send_window(self.window_bytes);
            polled
        })
        .await
    }
}

/// The order of one connection's item streams.
#[derive(Debug)]
pub(crate) struct Lanes {
    pub(crate) room: Room,
    turns: Mutex<Turns>,
    /// The priority of each class.
    priorities: watch::Sender<[i32; CLASSES]>,
}

impl Lanes {
    pub(crate) fn new(room: Room) -> Arc<Self> {
        let priorities = watch::Sender::new(std::array::from_fn(|class| CONTROL_PRIORITY - 1 - class as i32));
        Arc::new(Self { room, turns: Mutex::default(), priorities })
    }

    /// A transfer begins to send.
    pub(crate) fn enter(self: &Arc<Self>, priority: Priority) -> Arc<Lane> {
        let class = priority as usize;
        self.turns().handle_begin(class);
        Arc::new(Lane { lanes: Arc::clone(self), class })
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the turns, and the priorities where the order is another one then.
    fn apply(&self, change: impl FnOnce(&mut Turns)) {
        let mut turns = self.turns();
        let before = turns.order();
        change(&mut turns);
        let order = turns.order();
        if order != before {
            self.priorities.send_modify(|priorities| {
                let lowest = priorities.iter().copied().min().unwrap_or_default();
                for (place, class) in order.into_iter().enumerate() {
                    priorities[class] = lowest.saturating_sub(1 + place as i32);
                }
            });
        }
    }
}

/// One transfer's place among the others.
#[derive(Debug)]
pub(crate) struct Lane {
    lanes: Arc<Lanes>,
    class: usize,
}

impl Lane {
    /// Writes all of it, at the priority that the class has at each moment.
    pub(crate) async fn write(&self, stream: &mut SendStream, mut parts: Vec<Bytes>) -> Result<(), WriteError> {
        let mut priorities = self.lanes.priorities.subscribe();
        let mut done = 0;
        while done < parts.len() {
            let priority = priorities.borrow_and_update()[self.class];
            stream.set_priority(priority).map_err(|_| WriteError::ClosedStream)?;
            tokio::select! {
                biased;
                written = self.lanes.room.write(Some(self.class), stream.write_chunks(&mut parts[done..])) => {
                    let written = written?;
                    done += written.chunks;
                    self.lanes.apply(|turns| turns.handle_sent(self.class, written.bytes as u64));
                }
                _ = priorities.changed() => {}
            }
        }
        Ok(())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.lanes.apply(|turns| turns.handle_end(self.class));
    }
}
