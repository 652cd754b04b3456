//! Futures that send.

use super::entries::Sent;
use super::foreign::Caller;
use super::shared::{Handle, Offered};
use super::stream::ItemStream;
use crate::client::CallError;
use crate::client::CallId;
use crate::client::SendError;
use crate::client::shared_use::{Sending, Sort};
use crate::trace::{self, Span};
use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// A message that is being sent. Dropping it gives it up.
#[derive(Debug)]
struct Offer<'a> {
    handle: Arc<Handle>,
    payload: Cow<'a, [u8]>,
    sending: Sending,
    /// Its ticket in the queue of those that wait for room.
    ticket: Option<u64>,
    begun: bool,
    ended: bool,
}

impl<'a> Offer<'a> {
    fn new(handle: Arc<Handle>, payload: Cow<'a, [u8]>, sort: Sort) -> Self {
        Self {
            handle,
            payload,
            sending: Sending::new(sort),
            ticket: None,
            begun: false,
            ended: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<CallId, SendError>> {
        self.begin();
        let Self { handle, payload, sending, ticket, .. } = self;
        let offered = handle.shared().poll(cx.waker(), |core, caller, wakes| {
            let offered = core.offer(sending, payload, ticket, caller, wakes);
            if matches!(offered, Ok(Offered::Sent(_))) && sending.has_answer() {
                core.sleeps_over_calls();
            }
            offered
        });
        self.taken(offered.unwrap_or(Err(SendError::Forked)))
    }

    /// It is about to be sent, or sent on.
    ///
    /// # Panics
    /// If it was sent, or given up: like every future it must not be polled again then.
    fn begin(&mut self) {
        assert!(!self.ended, "a future is polled after its end");
        self.begun = true;
    }

    fn taken(&mut self, offered: Result<Offered, SendError>) -> Poll<Result<CallId, SendError>> {
        let result = match offered {
            Ok(Offered::Queued) => return Poll::Pending,
            Ok(Offered::Sent(call)) => Ok(call),
            Err(error) => Err(error),
        };
        self.begun = false;
        self.ended = true;
        Poll::Ready(result)
    }

    fn give_up(&mut self) {
        if std::mem::take(&mut self.begun) {
            let Self { handle, sending, ticket, .. } = self;
            handle.shared().with(|core, wakes| core.withdraw(sending, *ticket, wakes));
        }
    }
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// A call: see [`AsyncClient::call`](crate::AsyncClient::call) for what it does, and what dropping
/// it does.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Call<'a> {
    offer: Offer<'a>,
    timeout: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Once it was sent.
    sent: Option<Sent>,
    /// From the first poll to the end, if somebody wants to know.
    span: Option<Span>,
}

impl<'a> Call<'a> {
    pub(super) fn new(
        handle: Arc<Handle>,
        request: Cow<'a, [u8]>,
        timeout: Option<Duration>,
    ) -> Self {
        let offer = Offer::new(handle, request, Sort::Request);
        Self { offer, timeout, sleep: None, sent: None, span: None }
    }

    /// The time is over: the answer if it is there, or the error.
    fn time_is_over(&mut self) -> Result<Vec<u8>, CallError> {
        let maybe_executed = self.sent.is_some();
        match self.sent.take() {
            Some(sent) => {
                let polled = self.offer.handle.shared().with(|core, wakes| {
                    let polled = core.poll_last(sent, wakes);
                    if polled.is_pending() {
                        core.give_up(sent, true, wakes);
                    }
                    polled
                });
                if let Some(Poll::Ready(answer)) = polled {
                    return answer;
                }
            }
            None => {
                self.offer.give_up();
                self.offer.ended = true;
            }
        }
        Err(CallError::TimedOut { maybe_executed })
    }

    /// The first poll: sends, and looks out for the answer if nobody else waits for one.
    fn begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<u8>, CallError>> {
        self.offer.begin();
        let Self { offer, sent, timeout, span, .. } = self;
        let Offer { handle, payload, sending, ticket, .. } = offer;
        // Cloned before anything is sent: that is other people's code, and may panic.
        let mut caller = Caller::with_own(cx.waker());
        let begun = handle.shared().with(|core, wakes| {
            if let Some(timeout) = *timeout {
                core.client.wait_until(sending, timeout);
            }
            let look_out = core.may_look_out();
            let offered = core.offer(sending, payload, ticket, &mut caller, wakes);
            if let Ok(Offered::Sent(call)) = offered {
                if let Some(span) = span {
                    span.sent(call.as_u64());
                }
                *sent = Some(core.enter(call, &mut caller, wakes));
            }
            let Some(look_out) = look_out else {
                if sent.is_some() {
                    core.sleeps_over_calls();
                }
                return (offered, Poll::Pending);
            };
            let answer = match *sent {
                Some(sent) => {
                    core.look_out(look_out, wakes);
                    core.poll_answer(sent, None)
                }
                None => {
                    // There is nothing to look out for, and the client is not armed any more.
                    core.client.gives_up_looking();
                    core.wake_driver(wakes);
                    Poll::Pending
                }
            };
            (offered, answer)
        });
        let (offered, answer) = begun.unwrap_or((Err(SendError::Forked), Poll::Pending));
        if let Poll::Ready(Err(error)) = self.offer.taken(offered) {
            return Poll::Ready(Err(error.into()));
        }
        if answer.is_ready() {
            self.sent = None;
        }
        answer
    }

    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<u8>, CallError>> {
        let Some(sent) = self.sent else { return self.begin(cx) };
        let answer =
            self.offer.handle.shared().poll(cx.waker(), |core, caller, wakes| {
                core.poll_answer(sent, Some((caller, wakes)))
            });
        let answer = answer.unwrap_or(Poll::Ready(Err(CallError::Forked)));
        if answer.is_ready() {
            self.sent = None;
        }
        answer
    }
}

impl Future for Call<'_> {
    type Output = Result<Vec<u8>, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if trace::wants_calls() || self.span.is_some() {
            return self.poll_traced(cx);
        }
        self.poll_call(cx)
    }
}

impl Call<'_> {
    #[cold]
    fn poll_traced(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<u8>, CallError>> {
        // A call that was sent when nobody wanted to know has no span.
        if self.span.is_none() && !self.offer.begun && self.sent.is_none() {
            let session = self.offer.handle.shared().facts().session;
            self.span = Some(trace::call(session, self.offer.payload.len()));
        }
        let polled = match self.span.clone() {
            Some(span) => span.inside(|| self.poll_call(cx)),
            None => self.poll_call(cx),
        };
        if let Poll::Ready(result) = &polled
            && let Some(span) = self.span.take()
        {
            span.answered(result.as_ref().map(Vec::len).map_err(CallError::name));
        }
        polled
    }

    #[inline]
    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<u8>, CallError>> {
        // A task that calls again and again, and always finds its answer, lets others run now and
        // then.
        let budget = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        let polled = self.go_on(cx);
        if polled.is_ready() {
            budget.made_progress();
            return polled;
        }
        let Some(timeout) = self.timeout else { return Poll::Pending };
        if timeout.is_zero() {
            return Poll::Ready(self.time_is_over());
        }
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        std::task::ready!(sleep.as_mut().poll(cx));
        Poll::Ready(self.time_is_over())
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(span) = &self.span {
            span.came_to("dropped");
        }
        if let Some(sent) = self.sent.take() {
            self.offer.handle.shared().with(|core, wakes| core.give_up(sent, false, wakes));
        }
    }
}

/// A message that wants no answer, on its way: see
/// [`AsyncClient::send_one_way`](crate::AsyncClient::send_one_way).
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct SendOneWay<'a>(Offer<'a>);

impl<'a> SendOneWay<'a> {
    pub(super) fn new(handle: Arc<Handle>, message: &'a [u8]) -> Self {
        Self(Offer::new(handle, Cow::Borrowed(message), Sort::OneWay))
    }
}

impl Future for SendOneWay<'_> {
    type Output = Result<(), SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map_ok(|_| ())
    }
}

/// A streamed answer that is being asked for: see
/// [`AsyncClient::call_stream`](crate::AsyncClient::call_stream).
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct OpenStream<'a>(Offer<'a>);

impl<'a> OpenStream<'a> {
    pub(super) fn new(handle: Arc<Handle>, request: &'a [u8]) -> Self {
        Self(Offer::new(handle, Cow::Borrowed(request), Sort::Stream))
    }
}

impl Future for OpenStream<'_> {
    type Output = Result<ItemStream, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.0.poll(cx);
        polled.map_ok(|call| ItemStream::new(self.0.handle.clone(), call))
    }
}
