//! Sessions come and go.

use super::slot::{Backlog, ClientMemory, Flights, Slot};
use super::{End, Halt, LAST_TURNS, Reactor};
use crate::base::clock::{ClockOffset, now_ns};
use crate::base::sync::{Ordering, PlainBool, PlainU64};
use crate::handshake::AnswerOrder;
use crate::handshake::rings::server_rings;
use crate::link::held::Account;
use crate::link::lifeline::Farewell;
use crate::link::readiness::Readiness;
use crate::link::samples::Samples;
use crate::link::session::{Head, Parts, SendProgress, SessionCore, send_byte};
use crate::link::side::PeerHints;
use crate::link::stats::Words;
use crate::memory::layout::{self, Kind, offset};
use crate::os::closer;
use crate::server::engine::Engine;
use crate::server::flight::Caller;
use crate::server::porter::{Carrier, Death, Event, Joined};
use crate::server::service;
use crate::trace;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// Frames of a socket that may have been sent before the order to shut down came: there is no
/// telling.
const SOCKET_FRAMES: u64 = 4096;

impl<E: Engine> Reactor<E> {
    pub(super) fn read_mail(&mut self) -> Result<(), Halt> {
        for event in self.mailbox.take() {
            match event {
                Event::Joined(joined) => self.join(*joined),
                Event::Died { session, why } => {
                    self.part_from(session, why);
                }
                Event::Failed(error) => self.failure = Some(error),
            }
        }
        self.store_counts(now_ns());
        self.check_failure()
    }

    /// A client is gone. Who said goodbye may have sent requests before: they are handled, if
    /// nobody waits for the answers. So are the last ones over a socket, where a goodbye stands
    /// among them.
    fn part_from(&mut self, session: u64, why: Death) {
        let Some(&index) = self.places.get(&session) else { return };
        let slot = &mut self.slots[index];
        let why = if why == Death::HungUp && slot.said_goodbye { Death::Goodbye } else { why };
        if why != Death::Goodbye && !slot.session.is_socket() {
            return self.take_down(session, End::Gone(why));
        }
        slot.session.ready(Readiness { readable: true, ..Readiness::default() });
        slot.mark_gone(why, LAST_TURNS);
        self.turns.heat(index);
    }

    #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits; capacities were checked")]
    fn join(&mut self, joined: Joined) {
        let shared_bytes = joined.shared_bytes();
        let Joined {
            session: id,
            peer,
            lifeline,
            max_message,
            ordered: in_order,
            sampled,
            carrier,
            ..
        } = joined;
        let account = self.account(peer.uid);
        let caller = service::Session(Arc::new(Caller {
            id,
            peer,
            transport: carrier.transport(),
            order: if in_order { AnswerOrder::Request } else { AnswerOrder::Completion },
            max_message: max_message as usize,
            open: PlainBool::new(true),
            events: PlainU64::new(0),
            events_most: self.limits.events,
            completions: self.completions.clone(),
            account,
        }));
        let mut records_most = SOCKET_FRAMES;
        let mut burst = 16 * layout::FRAGMENT;
        let mut samples = None;
        let (rings, words, shared) = match carrier {
            Carrier::Socket { .. } => {
                if self.parker.join_socket(id, &lifeline).is_err() {
                    // Out of memory: nobody would notice what it sends.
                    let _ = rustix::net::shutdown(&lifeline, rustix::net::Shutdown::Both);
                    return self.porter.closed(id);
                }
                self.sockets += 1;
                (None, None, None)
            }
            Carrier::Shared {
                request,
                response,
                domain,
                domain_bell,
                request_capacity,
                response_capacity,
            } => {
                let watched =
                    self.parker.join(domain, &domain_bell.bell_word(offset::SEQ), id, &lifeline);
                if !watched && self.stage.is_some() {
                    // With a backstop it could be served all the same.
                    self.parker.remove(Some(domain), &lifeline);
                    let _ = rustix::net::shutdown(&lifeline, rustix::net::Shutdown::Both);
                    closer::free(shared_bytes, (request, response, domain_bell));
                    return self.porter.closed(id);
                }
                records_most = request_capacity / layout::LINE;
                burst = response_capacity as usize;
                let (from, to) = (&request.window, &response.window);
                let rings = server_rings((from, request_capacity), (to, response_capacity));
                let (words, hints) = (Words::new(to), PeerHints::new(from));
                samples = sampled.then(|| Box::new(Samples::new(to)));
                let shared = ClientMemory {
                    domain,
                    hints,
                    _domain_bell: domain_bell,
                    segments: [request, response],
                };
                (Some(rings), Some(words), Some(shared))
            }
        };
        let mut session = SessionCore::new(Parts {
            rings,
            lifeline: lifeline.clone(),
            words,
            max_message: max_message as usize,
            burst,
            account: caller.0.account.clone(),
            stamps: samples.is_some(),
            clock: ClockOffset::NONE,
        });
        session.charge_buffers();
        let account = caller.0.account.clone();
        trace::server_joined(id, &caller.0.peer, &caller.0.transport);
        self.engine.opened(&caller);
        self.places.insert(id, self.slots.len());
        self.turns.join();
        self.slots.push(Slot {
            id,
            session,
            samples,
            caller,
            lifeline,
            shared,
            held: self.held.clone(),
            queue: VecDeque::new(),
            stuck_since: None,
            stuck_behind: None,
            last_since: None,
            stalled: 0,
            flights: Flights::new(in_order, &account),
            backlog: Backlog::default(),
            is_held_up: false,
            said_goodbye: false,
            gone: None,
            drained: false,
            drain_turns: 0,
            records_most,
        });
        self.counts.accepted += 1;
        self.counts.sessions = self.slots.len() as u64;
        self.counts.sessions_peak = self.counts.sessions_peak.max(self.counts.sessions);
    }

    /// What will be held for a client of this uid.
    fn account(&mut self, uid: u32) -> Arc<Account> {
        self.shares.retain(|_, share| share.strong_count() != 0);
        let share = self.shares.get(&uid).and_then(Weak::upgrade).unwrap_or_else(|| {
            let share = self.held.share(uid);
            self.shares.insert(uid, Arc::downgrade(&share));
            share
        });
        share.account()
    }

    #[cold]
    pub(super) fn take_down(&mut self, id: u64, end: End) {
        let Some(index) = self.places.remove(&id) else { return };
        let mut slot = self.slots.swap_remove(index);
        if let Some(moved) = self.slots.get(index) {
            self.places.insert(moved.id, index);
        }
        self.turns.remove(index);
        // Relaxed: advice.
        slot.caller.0.open.store(false, Ordering::Relaxed);
        slot.flights.give_up();
        self.parker.remove(slot.shared.as_ref().map(|shared| shared.domain), &slot.lifeline);
        self.sockets -= usize::from(slot.shared.is_none());
        let peer = &slot.caller.0.peer;
        match end {
            End::Fault(fault) => trace::server_lost(id, peer, &fault),
            End::Gone(Death::HungUp) => trace::server_lost(id, peer, &"the client hung up"),
            End::Gone(Death::ProcessDied) => {
                trace::server_lost(id, peer, &"the client's process has ended")
            }
            End::Slow => trace::server_lost(id, peer, &"the client does not read its answers"),
            End::Gone(Death::Goodbye) => trace::server_left(id, peer, "goodbye"),
            End::ShutDown => trace::server_left(id, peer, "the server shuts down"),
            End::Forked => {}
        }
        let goodbye = match end {
            End::Fault(_) => {
                self.counts.peer_faults += 1;
                Some(Farewell::PeerFault)
            }
            End::Gone(_) => {
                self.counts.hung_up += 1;
                None
            }
            End::Slow => {
                self.counts.slow_clients += 1;
                Some(Farewell::SlowClient)
            }
            End::ShutDown => Some(Farewell::ShutDown),
            End::Forked => unreachable!("a child takes nothing down"),
        };
        if let Some(reason) = goodbye {
            if slot.shared.is_some() {
                send_byte(&slot.lifeline, reason as u8);
            }
            if end == End::ShutDown || slot.shared.is_none() {
                // In the ring as well: a client that sleeps there is woken at once. Without room it
                // learns from the lifeline.
                let goodbye = Head::with_code(Kind::Goodbye, reason as u16, 0);
                let _ = slot.session.send(goodbye, 0, &[], &mut SendProgress::default());
            }
        }
        if goodbye.is_some() || slot.shared.is_none() {
            // Hangs up for all holders of the descriptor, the porter included.
            let _ = rustix::net::shutdown(&slot.lifeline, rustix::net::Shutdown::Both);
        }
        slot.nothing_in_flight();
        slot.session.store_counts();
        self.wakes_of_the_gone += slot.session.counts.wakes_sent;
        self.counts.sessions = self.slots.len() as u64;
        self.porter.closed(id);
        self.engine.closed(&slot.caller);
        if let Some(shared) = &slot.shared {
            closer::free(shared.bytes(), (slot.session, slot.shared, slot.samples));
        }
    }
}
