//! Ringbell, through its public interface, with its defaults.

use ringbell::{ConnectOptions, Server, WaitSettings};

use super::{Client, Outcome, Ready, Setup, System};
use crate::payload::echo;
use crate::scenario::Waiting;

/// The blocking client and the serial server.
#[derive(Debug)]
pub(crate) struct Ringbell;

/// The waiting policy of one side: the default, but for the case in which everybody must sleep.
fn waiting(setup: &Setup, default: WaitSettings) -> WaitSettings {
    match setup.case.waiting() {
        Waiting::Default => default,
        Waiting::Sleep => default.park_at_once(),
    }
}

impl System for Ringbell {
    fn name(&self) -> &'static str {
        "ringbell"
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let server = Server::builder().wait(waiting(setup, WaitSettings::server())).bind(&setup.path)?;
        ready()?;
        server.run(|request, answer| {
            echo(request.payload(), answer);
            Ok(())
        })?;
        Ok(())
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let client =
            ConnectOptions::new().wait(waiting(setup, WaitSettings::client())).connect(&setup.path)?;
        Ok(Box::new(Caller { client }))
    }
}

/// The client's end.
#[derive(Debug)]
struct Caller {
    client: ringbell::Client,
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.client.call_into(request, answer, None)?;
        Ok(())
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        self.client.post(request)?;
        Ok(())
    }

    fn flush(&mut self) -> Outcome<()> {
        self.client.flush();
        Ok(())
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        let response = self.client.recv(None)?.outcome?;
        answer.clear();
        answer.extend_from_slice(&response);
        Ok(())
    }
}
