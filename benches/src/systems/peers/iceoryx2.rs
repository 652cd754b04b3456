//! iceoryx2: its request-response service, polled without a pause, or with an event service for
//! each side that sleeps.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::hint::spin_loop;
use std::process;

use iceoryx2::active_request::ActiveRequest;
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::client::Client as RequestClient;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::event;

use crate::outcome::Outcome;
use crate::scenario::{Case, Scenario};
use crate::system::{Client, Ready, Setup, System};
use crate::work::Handler;

/// Both sides look for messages without a pause: the fastest, where each has a CPU of its own.
pub(crate) static SPINNING: Iceoryx2 = Iceoryx2 { name: "iceoryx2-spin", events: false };

/// Both sides sleep until they are notified of a message.
pub(crate) static EVENTS: Iceoryx2 = Iceoryx2 { name: "iceoryx2-events", events: true };

/// A request-response service of byte slices.
#[derive(Debug)]
pub(crate) struct Iceoryx2 {
    name: &'static str,
    events: bool,
}

/// The flavour that works between processes.
type Ipc = ipc::Service;

/// More than any case has.
const CLIENTS: usize = 40;

/// Requests, with the number of the client who asks.
type Port =
    iceoryx2::service::port_factory::request_response::PortFactory<Ipc, [u8], u64, [u8], ()>;

/// Everything that is named after the trial.
struct Space {
    node: Node<Ipc>,
}

impl Space {
    fn new(setup: &Setup) -> Outcome<Self> {
        set_log_level(LogLevel::Error);
        let mut config = Config::default();
        let root = setup.path.with_extension("iceoryx2");
        config.global.set_root_path(&Path::new(root.as_os_str().as_encoded_bytes())?);
        config.global.prefix = FileName::new(prefix(setup).as_bytes())?;
        Ok(Self { node: NodeBuilder::new().config(&config).create::<Ipc>()? })
    }

    fn requests(&self, case: &Case) -> Outcome<Port> {
        // Twice what is in flight: answered requests are given back a little later.
        let active = 2 * usize::try_from(case.in_flight)?.max(4);
        Ok(self
            .node
            .service_builder(&"requests".try_into()?)
            .request_response::<[u8], [u8]>()
            .request_user_header::<u64>()
            .max_clients(CLIENTS)
            .max_servers(1)
            .max_nodes(CLIENTS + 2)
            .max_active_requests_per_client(active)
            .max_response_buffer_size(1)
            .open_or_create()?)
    }

    fn event(&self, name: &str) -> Outcome<event::PortFactory<Ipc>> {
        let service = self.node.service_builder(&name.try_into()?).event();
        Ok(service
            .max_notifiers(CLIENTS)
            .max_listeners(2)
            .max_nodes(CLIENTS + 2)
            .open_or_create()?)
    }
}

/// What the names of this trial's shared memory begin with: the trial's directory, which is named
/// after a process.
fn prefix(setup: &Setup) -> String {
    let directory = setup.path.parent().and_then(|parent| parent.file_name()).unwrap_or_default();
    format!("{}_", directory.to_string_lossy().replace('-', "_"))
}

/// The event service with which a client is told of answers.
fn answers_to(client: u64) -> String {
    format!("answers-{client}")
}

impl System for Iceoryx2 {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Case::few();
        cases.retain(|case| self.events || case.scenario != Scenario::Parked);
        cases
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let space = Space::new(setup)?;
        let requests = space.requests(&setup.case)?;
        let server = requests.server_builder().initial_max_slice_len(setup.case.size).create()?;
        let mut handler = Handler::of(&setup.case);
        if !self.events {
            ready()?;
            loop {
                while let Some(request) = server.receive()? {
                    answer(&request, &mut handler)?;
                }
                spin_loop();
            }
        }
        let listener = space.event("requests-came")?.listener_builder().create()?;
        let mut notifiers: HashMap<u64, Notifier<Ipc>> = HashMap::new();
        ready()?;
        loop {
            listener.blocking_wait(|_| ())?;
            while let Some(request) = server.receive()? {
                answer(&request, &mut handler)?;
                let client = *request.user_header();
                if !notifiers.contains_key(&client) {
                    let notifier = space.event(&answers_to(client))?.notifier_builder().create()?;
                    notifiers.insert(client, notifier);
                }
                notifiers[&client].notify()?;
            }
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let space = Space::new(setup)?;
        let requests = space.requests(&setup.case)?;
        let client = requests.client_builder().initial_max_slice_len(setup.case.size).create()?;
        let number = u64::from(process::id());
        let events = if self.events {
            let listener = space.event(&answers_to(number))?.listener_builder().create()?;
            Some((space.event("requests-came")?.notifier_builder().create()?, listener))
        } else {
            None
        };
        Ok(Box::new(Caller {
            client,
            number,
            events,
            pending: VecDeque::new(),
            _requests: requests,
            _space: space,
        }))
    }

    fn clean(&self, setup: &Setup) -> Outcome<()> {
        // The server was killed, and its memory has names.
        let prefix = prefix(setup);
        for entry in fs::read_dir("/dev/shm")? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Checks a request and answers with it, from place to place.
fn answer(request: &ActiveRequest<Ipc, [u8], u64, [u8], ()>, handler: &mut Handler) -> Outcome<()> {
    if handler.admits(request.payload()) {
        let place = request.loan_slice_uninit(request.payload().len())?;
        place.write_from_slice(request.payload()).send()?;
    }
    Ok(())
}

/// A request whose answer has not been taken yet.
type Pending = PendingResponse<Ipc, [u8], u64, [u8], ()>;

/// The client's end.
struct Caller {
    pending: VecDeque<Pending>,
    client: RequestClient<Ipc, [u8], u64, [u8], ()>,
    number: u64,
    events: Option<(Notifier<Ipc>, Listener<Ipc>)>,
    _requests: Port,
    _space: Space,
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.send(request)?;
        self.flush()?;
        self.receive(answer)
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        let mut place = self.client.loan_slice_uninit(request.len())?;
        *place.user_header_mut() = self.number;
        self.pending.push_back(place.write_from_slice(request).send()?);
        Ok(())
    }

    fn flush(&mut self) -> Outcome<()> {
        if let Some((notifier, _)) = &self.events {
            notifier.notify()?;
        }
        Ok(())
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        let pending = self.pending.front().ok_or("nothing was sent")?;
        loop {
            if let Some(response) = pending.receive()? {
                answer.clear();
                answer.extend_from_slice(response.payload());
                break;
            }
            match &self.events {
                Some((_, listener)) => {
                    listener.blocking_wait(|_| ())?;
                }
                None => spin_loop(),
            }
        }
        self.pending.pop_front();
        Ok(())
    }
}
