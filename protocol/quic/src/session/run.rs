//! The task of a session: it reads control messages, writes them, and accepts item streams.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use headwater_protocol::wire::{Message, Refusal};
use tokio::sync::mpsc;

use super::SessionEvent;
use super::shared::{Route, Shared, TransferEvent};
use crate::endpoint::close;
use crate::framing::{ControlReceiver, ControlSender, FrameError};
use crate::transfer::{IncomingOffer, items};
use crate::work;

/// How long a goodbye may take to arrive before the connection is closed anyway.
const GOODBYE_WAIT: Duration = Duration::from_millis(500);

/// The events of a session on their way to its daemon.
pub(super) type EventSender = mpsc::Sender<Box<SessionEvent>>;

/// Runs a session to its end.
pub(super) async fn run(
    shared: Arc<Shared>,
    control: (ControlSender, ControlReceiver),
    mut outgoing: mpsc::Receiver<Box<Message>>,
    events: EventSender,
) {
    let (mut sender, mut receiver) = control;
    let mut closing = shared.closing.subscribe();
    let reason = tokio::select! {
        biased;
        _ = closing.wait_for(Option::is_some) => Ended::Here,
        ended = read(&shared, &mut receiver, &events) => ended,
        ended = write(&shared, &mut sender, &mut outgoing) => ended,
        ended = accept(&shared) => ended,
    };
    let reason = match reason {
        Ended::Here => {
            let (code, reason) = closing.borrow().clone().unwrap_or_default();
            // The connection may be gone already; then so is whoever would read this.
            let _ = tokio::time::timeout(GOODBYE_WAIT, goodbye(&mut sender)).await;
            shared.connection.close(code.into(), reason.as_bytes());
            reason
        }
        Ended::Goodbye => {
            shared.connection.close(close::DONE, b"");
            "the peer said goodbye".to_owned()
        }
        Ended::Frame(error) if error.is_protocol_violation() => {
            let reason = format!("the control stream broke the protocol: {error}");
            shared.connection.close(close::PROTOCOL, reason.as_bytes());
            reason
        }
        Ended::Frame(_) | Ended::Connection => {
            let reason = shared.why_ended();
            shared.connection.close(close::DONE, b"");
            reason
        }
    };
    shared.end();
    // Nobody may be listening any more.
    let _ = events.send(Box::new(SessionEvent::Closed { reason })).await;
}

/// Why a session ends.
enum Ended {
    /// This side closes it.
    Here,
    /// The peer went away on purpose.
    Goodbye,
    /// The connection is gone.
    Connection,
    /// The control stream failed.
    Frame(FrameError),
}

async fn goodbye(sender: &mut ControlSender) {
    if sender.send(&Message::Goodbye).await.is_ok() {
        sender.delivered().await;
    }
}

async fn write(shared: &Shared, sender: &mut ControlSender, outgoing: &mut mpsc::Receiver<Box<Message>>) -> Ended {
    loop {
        let message = tokio::select! {
            biased;
            message = shared.next_reply() => message,
            message = outgoing.recv() => match message {
                Some(message) => message,
                None => return Ended::Here,
            },
        };
        if let Err(error) = shared.lanes.room.write(None, sender.send(&message)).await {
            return Ended::Frame(error);
        }
        shared.messages_sent.fetch_add(1, Ordering::Relaxed);
    }
}

async fn read(shared: &Shared, receiver: &mut ControlReceiver, events: &EventSender) -> Ended {
    loop {
        let message = match receiver.recv().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ended::Goodbye,
            Err(error) => return Ended::Frame(error),
        };
        shared.messages_received.fetch_add(1, Ordering::Relaxed);
        match message {
            Message::Goodbye => return Ended::Goodbye,
            message => handle(shared, events, message).await,
        }
    }
}

async fn handle(shared: &Shared, events: &EventSender, message: Message) {
    match message {
        Message::Ping(number) => shared.reply(Message::Pong(number)),
        Message::Pong(number) => shared.pong(number),
        message => match message.transfer() {
            Some(transfer) => handle_of_transfer(shared, events, message, transfer).await,
            None => {
                // Whoever let go of the events wants to hear no more.
                tell(events, SessionEvent::Message(message)).await;
            }
        },
    }
}

async fn handle_of_transfer(shared: &Shared, events: &EventSender, message: Message, transfer: u32) {
    match shared.route(&message, transfer) {
        Route::To(transfer) => {
            // It may have ended meanwhile.
            let _ = transfer.send(Box::new(TransferEvent::Message(message))).await;
        }
        Route::New => {
            shared.announce(transfer);
            let event = match message {
                Message::Offer { transfer, dataset, manifest, commit } => SessionEvent::Offer(IncomingOffer {
                    transfer,
                    dataset,
                    manifest: Bytes::from(manifest),
                    commit: Bytes::from(commit),
                }),
                Message::Fetch { transfer, dataset, version } => SessionEvent::Fetch { transfer, dataset, version },
                _ => return,
            };
            if !tell(events, event).await {
                // Nobody will ever answer: the peer must not wait for that.
                shared.forget(transfer);
                shared.reply(refused(
                    transfer,
                    "nobody takes transfers on this session any more",
                    "open another session",
                ));
            }
        }
        Route::TooMany => {
            let reason = "too many transfers are open on this session";
            shared.reply(refused(transfer, reason, "try again when some have ended"));
        }
        // What comes late for a transfer that has ended.
        Route::Nowhere => tracing::trace!(transfer, "a message for no transfer"),
    }
}

fn refused(transfer: u32, reason: &str, hint: &str) -> Message {
    let refusal = Refusal { code: "HW-3008".into(), message: reason.into(), hint: hint.into() };
    Message::Refused { transfer: Some(transfer), refusal }
}

/// Tells the daemon; false if it has let go of the session's events.
async fn tell(events: &EventSender, event: SessionEvent) -> bool {
    events.send(Box::new(event)).await.is_ok()
}

async fn accept(shared: &Arc<Shared>) -> Ended {
    loop {
        match shared.connection.accept_uni().await {
            Ok(stream) => {
                work::spawn(items::read(Arc::clone(shared), stream));
            }
            Err(_) => return Ended::Connection,
        }
    }
}
