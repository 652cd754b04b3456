//! ipc-channel: a pair of its byte channels for each client, over sockets. Its default is all the
//! configuration it has.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use ipc_channel::ipc::{
    IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel,
};

use crate::outcome::Outcome;
use crate::scenario::Case;
use crate::system::{Client, Ready, Setup, System};
use crate::work::Handler;

/// Messages as bytes, so that nothing has to be serialized.
pub(crate) static BYTES: IpcChannel = IpcChannel;

/// Calls over a pair of channels that stays.
#[derive(Debug)]
pub(crate) struct IpcChannel;

/// What a client gets from the server.
type Ends = (IpcBytesSender, IpcBytesReceiver);

impl System for IpcChannel {
    fn name(&self) -> &'static str {
        "ipc-channel"
    }

    fn cases(&self) -> Vec<Case> {
        [Case::few(), vec![Case::stream()]].concat()
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        // Where clients leave the names of their one-shot servers: the library has no listener that
        // stays.
        let listener = UnixListener::bind(&setup.path)?;
        let handler = Handler::of(&setup.case);
        ready()?;
        loop {
            let (mut introduction, _) = listener.accept()?;
            thread::spawn(move || {
                let mut answered = || -> Outcome<()> {
                    let mut name = String::new();
                    introduction.read_to_string(&mut name)?;
                    let (request_end, requests) = bytes_channel()?;
                    let (answers, answer_end) = bytes_channel()?;
                    IpcSender::<Ends>::connect(name)?.send((request_end, answer_end))?;
                    answer_all(&requests, &answers, handler)
                };
                if let Err(error) = answered() {
                    eprintln!("race: ipc-channel server: {error}");
                }
            });
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let (server, name) = IpcOneShotServer::<Ends>::new()?;
        let mut introduction = UnixStream::connect(&setup.path)?;
        introduction.write_all(name.as_bytes())?;
        drop(introduction);
        let (_, (requests, answers)) = server.accept()?;
        Ok(Box::new(Caller { requests, answers }))
    }
}

/// Answers requests until the client hangs up.
fn answer_all(
    requests: &IpcBytesReceiver,
    answers: &IpcBytesSender,
    mut handler: Handler,
) -> Outcome<()> {
    // The error of a client that is gone is that of any other.
    while let Ok(request) = requests.recv() {
        if handler.admits(&request) {
            answers.send(&request)?;
        }
    }
    Ok(())
}

/// The client's ends.
struct Caller {
    requests: IpcBytesSender,
    answers: IpcBytesReceiver,
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.send(request)?;
        self.receive(answer)
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        Ok(self.requests.send(request)?)
    }

    fn one_way(&mut self, message: &[u8]) -> Outcome<()> {
        self.send(message)
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        *answer = self.answers.recv()?;
        Ok(())
    }
}
