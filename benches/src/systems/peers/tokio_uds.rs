//! Length-prefixed frames over a stream socket under tokio, a task for each connection.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use super::runtime::{self, runtime};
use crate::outcome::Outcome;
use crate::payload::Payload;
use crate::scenario::{Case, Scenario};
use crate::system::{Client, Ready, Setup, System};
use crate::work::Handler;

/// As `#[tokio::main]` has it: a worker thread for each CPU.
pub(crate) static DEFAULT: TokioUds = TokioUds { name: "tokio-uds", workers: true };

/// Everything on the thread that calls or serves.
pub(crate) static ONE_THREAD: TokioUds = TokioUds { name: "tokio-uds-one-thread", workers: false };

/// Calls over a connection that stays.
#[derive(Debug)]
pub(crate) struct TokioUds {
    name: &'static str,
    workers: bool,
}

impl System for TokioUds {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        if self.workers { Case::few() } else { [Case::glance(), vec![Case::tasks()]].concat() }
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let handler = Handler::of(&setup.case);
        runtime(self.workers)?.block_on(async {
            let listener = UnixListener::bind(&setup.path)?;
            ready()?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(async move {
                    if let Err(error) = answer_all(stream, handler).await {
                        eprintln!("race: tokio server: {error}");
                    }
                });
            }
        })
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let runtime = runtime(self.workers)?;
        let frames = runtime.block_on(Frames::connect(&setup.path))?;
        if setup.case.scenario == Scenario::Tasks {
            return Ok(Box::new(Shared::new(runtime, frames)));
        }
        Ok(Box::new(Connection { runtime, frames }))
    }
}

/// Both directions of a connection, buffered.
struct Frames {
    reader: BufReader<OwnedReadHalf>,
    writer: BufWriter<OwnedWriteHalf>,
}

impl Frames {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer: BufWriter::new(writer) }
    }

    async fn connect(path: &Path) -> Outcome<Self> {
        Ok(Self::new(UnixStream::connect(path).await?))
    }

    /// Keeps a frame for the next flush, or writes it if it is large.
    async fn push(&mut self, payload: &[u8]) -> Outcome<()> {
        self.writer.write_u32_le(u32::try_from(payload.len())?).await?;
        self.writer.write_all(payload).await?;
        Ok(())
    }

    /// The next payload. False at the end of the stream.
    async fn read(&mut self, payload: &mut Vec<u8>) -> Outcome<bool> {
        let length = match self.reader.read_u32_le().await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            length => usize::try_from(length?)?,
        };
        payload.resize(length, 0);
        self.reader.read_exact(payload).await?;
        Ok(true)
    }
}

/// Answers requests until the client hangs up; what is answered in one go is written in one go.
async fn answer_all(stream: UnixStream, mut handler: Handler) -> Outcome<()> {
    let mut frames = Frames::new(stream);
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    while frames.read(&mut request).await? {
        if handler.answer(&request, &mut answer) {
            frames.push(&answer).await?;
        }
        if frames.reader.buffer().is_empty() {
            frames.writer.flush().await?;
        }
    }
    Ok(())
}

/// The client's end.
struct Connection {
    runtime: Runtime,
    frames: Frames,
}

impl Client for Connection {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        let frames = &mut self.frames;
        self.runtime.block_on(async {
            frames.push(request).await?;
            frames.writer.flush().await?;
            if frames.read(answer).await? { Ok(()) } else { Err("the server hung up".into()) }
        })
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        self.runtime.block_on(self.frames.push(request))
    }

    fn flush(&mut self) -> Outcome<()> {
        Ok(self.runtime.block_on(self.frames.writer.flush())?)
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        if self.runtime.block_on(self.frames.read(answer))? {
            Ok(())
        } else {
            Err("the server hung up".into())
        }
    }

    fn one_way(&mut self, message: &[u8]) -> Outcome<()> {
        self.send(message)
    }
}

/// A call on its way to the connection: the request, and where its answer goes.
type Ask = (Vec<u8>, oneshot::Sender<Vec<u8>>);

/// One connection that many tasks share, as a careful user shares it: one task writes what all of
/// them ask, in one go what has gathered; another reads, and gives each answer to whose turn it is,
/// since answers come in order.
struct Shared {
    runtime: Runtime,
    asks: Asks,
}

/// The way to the task that writes.
#[derive(Clone)]
struct Asks(mpsc::UnboundedSender<Ask>);

/// Requests that the writing task takes at once, at most.
const GATHERED: usize = 1024;

impl Shared {
    fn new(runtime: Runtime, frames: Frames) -> Self {
        let (asks, mut asked) = mpsc::unbounded_channel::<Ask>();
        let turns = Arc::new(Mutex::new(VecDeque::new()));
        let Frames { mut reader, mut writer } = frames;
        runtime.spawn({
            let turns = turns.clone();
            async move {
                let mut gathered = Vec::new();
                while asked.recv_many(&mut gathered, GATHERED).await > 0 {
                    for (request, answer) in gathered.drain(..) {
                        turns.lock().unwrap_or_else(PoisonError::into_inner).push_back(answer);
                        writer.write_u32_le(u32::try_from(request.len())?).await?;
                        writer.write_all(&request).await?;
                    }
                    writer.flush().await?;
                }
                Outcome::Ok(())
            }
        });
        runtime.spawn(async move {
            loop {
                let length = usize::try_from(reader.read_u32_le().await?)?;
                let mut payload = vec![0; length];
                reader.read_exact(&mut payload).await?;
                let turn = turns.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let turn: oneshot::Sender<Vec<u8>> =
                    turn.ok_or("an answer that nobody waits for")?;
                if turn.send(payload).is_err() {
                    return Outcome::Ok(());
                }
            }
        });
        Self { runtime, asks: Asks(asks) }
    }
}

impl Client for Shared {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        *answer = self.runtime.block_on(runtime::Caller::call(&self.asks, request))?;
        Ok(())
    }

    fn tasks(&mut self, payloads: Vec<Payload>, first: u64, rounds: u64) -> Outcome<Vec<Payload>> {
        runtime::tasks(&self.runtime, &self.asks, payloads, first, rounds)
    }
}

impl runtime::Caller for Asks {
    async fn call(&self, request: &[u8]) -> Outcome<Vec<u8>> {
        let (sender, answer) = oneshot::channel();
        self.0.send((request.to_vec(), sender)).map_err(|_| "the connection is over")?;
        Ok(answer.await?)
    }
}
