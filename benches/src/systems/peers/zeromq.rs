//! ZeroMQ over its `ipc` transport: a DEALER for each client and one ROUTER, which allow many calls
//! at once.

use crate::outcome::Outcome;
use crate::scenario::Case;
use crate::system::{Client, Ready, Setup, System};
use crate::work::Handler;

/// With its defaults: there is nothing that would make a round trip faster.
pub(crate) static ROUTER: ZeroMq = ZeroMq;

/// Calls over a socket that stays.
#[derive(Debug)]
pub(crate) struct ZeroMq;

fn endpoint(setup: &Setup) -> String {
    format!("ipc://{}", setup.path.display())
}

impl System for ZeroMq {
    fn name(&self) -> &'static str {
        "zeromq"
    }

    fn cases(&self) -> Vec<Case> {
        [Case::few(), vec![Case::stream()]].concat()
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let context = zmq::Context::new();
        let router = context.socket(zmq::ROUTER)?;
        router.bind(&endpoint(setup))?;
        let mut handler = Handler::of(&setup.case);
        ready()?;
        loop {
            let from = router.recv_msg(0)?;
            let request = router.recv_msg(0)?;
            if handler.admits(&request) {
                router.send(from, zmq::SNDMORE)?;
                router.send(&request[..], 0)?;
            }
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let context = zmq::Context::new();
        let dealer = context.socket(zmq::DEALER)?;
        dealer.connect(&endpoint(setup))?;
        Ok(Box::new(Caller { dealer }))
    }
}

/// The client's end.
struct Caller {
    dealer: zmq::Socket,
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.send(request)?;
        self.receive(answer)
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        Ok(self.dealer.send(request, 0)?)
    }

    fn one_way(&mut self, message: &[u8]) -> Outcome<()> {
        self.send(message)
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        let message = self.dealer.recv_msg(0)?;
        answer.clear();
        answer.extend_from_slice(&message);
        Ok(())
    }
}
