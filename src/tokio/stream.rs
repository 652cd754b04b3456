//! Items of streamed answers, and events, as streams.

use super::shared::Handle;
use crate::client::CallError;
use crate::client::CallId;
use crate::client::EventError;
use crate::client::SessionEnd;
use futures_core::Stream;
use futures_core::stream::FusedStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A streamed answer, item by item; ends with the answer, or with an error as its last item. The
/// server sends a bounded number of items ahead.
///
/// # Cancel safety
/// A `next()` that is dropped takes no item. Dropping the stream before its end cancels the call.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct ItemStream {
    handle: Arc<Handle>,
    call: CallId,
    over: bool,
}

impl ItemStream {
    pub(super) fn new(handle: Arc<Handle>, call: CallId) -> Self {
        Self { handle, call, over: false }
    }

    /// The call that this answers.
    pub fn call(&self) -> CallId {
        self.call
    }
}

impl Stream for ItemStream {
    type Item = Result<Vec<u8>, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        let budget = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        let call = self.call;
        let polled = self
            .handle
            .shared()
            .poll(cx.waker(), |core, caller, wakes| core.poll_item(call, caller, wakes));
        let polled = polled.unwrap_or(Poll::Ready(Some(Err(CallError::Forked))));
        if let Poll::Ready(next) = &polled {
            budget.made_progress();
            self.over = !matches!(next, Some(Ok(_)));
        }
        polled
    }
}

impl FusedStream for ItemStream {
    fn is_terminated(&self) -> bool {
        self.over
    }
}

impl Drop for ItemStream {
    fn drop(&mut self) {
        let call = self.call;
        self.handle.shared().with(|core, wakes| core.close_stream(call, wakes));
    }
}

/// The events that a server pushes: see [`AsyncClient::events`](crate::AsyncClient::events).
/// [`EventError::Missed`] is one of its items, and others follow; every other error is the last
/// one.
///
/// # Cancel safety
/// A `next()` that is dropped takes no event. Dropping the stream leaves the events that come to
/// others.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct EventStream {
    handle: Arc<Handle>,
    /// Names this stream to who wakes it.
    listener: u64,
    over: bool,
}

impl EventStream {
    pub(super) fn new(handle: Arc<Handle>) -> Self {
        // In a forked child no number is asked for.
        let listener = handle.shared().with(|core, _| core.new_listener()).unwrap_or(0);
        Self { handle, listener, over: false }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let listener = self.listener;
        self.handle.shared().with(|core, wakes| core.forget_listener(listener, wakes));
    }
}

impl Stream for EventStream {
    type Item = Result<Vec<u8>, EventError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        let budget = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        let listener = self.listener;
        let polled = self
            .handle
            .shared()
            .poll(cx.waker(), |core, caller, wakes| core.poll_event(listener, caller, wakes));
        let polled = polled.unwrap_or(Poll::Ready(Err(SessionEnd::Forked)));
        let event = std::task::ready!(polled);
        budget.made_progress();
        Poll::Ready(Some(match event {
            Ok(Ok(event)) => Ok(event),
            Ok(Err(events)) => Err(EventError::Missed { events }),
            Err(over) => {
                self.over = true;
                Err(over.into())
            }
        }))
    }
}

impl FusedStream for EventStream {
    fn is_terminated(&self) -> bool {
        self.over
    }
}
