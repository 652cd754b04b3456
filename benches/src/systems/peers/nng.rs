//! nng over its `ipc` transport: REQ and REP, one call at a time for each client.

use nng::options::{Options, RecvMaxSize};
use nng::{Message, Protocol, Socket};

use crate::outcome::Outcome;
use crate::scenario::Case;
use crate::system::{Client, Ready, Setup, System};
use crate::work::Handler;

/// With its defaults, but for the largest message, which would be 1 MiB.
pub(crate) static REQ: Nng = Nng;

/// Calls over a socket that stays.
#[derive(Debug)]
pub(crate) struct Nng;

fn socket(protocol: Protocol) -> Outcome<Socket> {
    let socket = Socket::new(protocol)?;
    socket.set_opt::<RecvMaxSize>(4 << 20)?;
    Ok(socket)
}

fn address(setup: &Setup) -> String {
    format!("ipc://{}", setup.path.display())
}

impl System for Nng {
    fn name(&self) -> &'static str {
        "nng"
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Case::few();
        cases.retain(|case| !case.comes_in_bursts());
        cases
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let server = socket(Protocol::Rep0)?;
        server.listen(&address(setup))?;
        let mut handler = Handler::of(&setup.case);
        ready()?;
        loop {
            let request = server.recv()?;
            handler.admits(&request);
            server.send(request).map_err(|(_, error)| error)?;
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let client = socket(Protocol::Req0)?;
        client.dial(&address(setup))?;
        Ok(Box::new(Caller(client)))
    }
}

/// The client's end.
struct Caller(Socket);

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.0.send(Message::from(request)).map_err(|(_, error)| error)?;
        let message = self.0.recv()?;
        answer.clear();
        answer.extend_from_slice(&message);
        Ok(())
    }
}
