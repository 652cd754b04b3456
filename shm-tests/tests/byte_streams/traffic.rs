//! The bytes that are sent and checked, and a stream of either form to send them through.

use ringbell::{AsyncByteStream, ByteStream, ByteStreamError};
use ringbell_shm_tests::options;
use ringbell_shm_tests::pattern::Chance;
use ringbell_shm_tests::progress::tick;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

/// How a side waits.
pub(crate) const FLAVOURS: [&str; 3] = ["blocking", "one", "two"];

pub(crate) fn runtime(flavour: &str) -> Runtime {
    let mut builder = match flavour {
        "one" => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(2).enable_all().build().expect("a runtime")
}

/// The bytes of one direction, in order.
pub(crate) struct Bytes {
    chance: Chance,
    word: [u8; 8],
    used: usize,
}

impl Bytes {
    pub(crate) fn new(seed: u64) -> Self {
        Self { chance: Chance::new(seed), word: [0; 8], used: 8 }
    }

    fn next(&mut self) -> u8 {
        if self.used == 8 {
            (self.word, self.used) = (self.chance.draw().to_le_bytes(), 0);
        }
        self.used += 1;
        self.word[self.used - 1]
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next());
    }

    pub(crate) fn check(&mut self, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            assert_eq!(*byte, self.next(), "byte {index} of {}", bytes.len());
        }
        tick();
    }
}

/// Sizes of writes and of reads: mostly small, some of many chunks.
pub(crate) fn size(chance: &mut Chance) -> usize {
    let most = [8, 100, 5000, 20_000, 200_000][usize::try_from(chance.below(5)).expect("small")];
    usize::try_from(chance.below(most) + 1).expect("small")
}

/// What a client asks of a server: a verb, a seed, and a count.
pub(crate) fn ask(verb: u8, seed: u64, count: u64) -> [u8; 17] {
    let mut ask = [verb; 17];
    ask[1..9].copy_from_slice(&seed.to_le_bytes());
    ask[9..].copy_from_slice(&count.to_le_bytes());
    ask
}

pub(crate) fn asked(ask: [u8; 17]) -> (u8, u64, u64) {
    let word = |at: usize| u64::from_le_bytes(ask[at..at + 8].try_into().expect("eight"));
    (ask[0], word(1), word(9))
}

/// The two seeds of an exchange.
pub(crate) fn seeds(seed: u64, client: bool) -> (u64, u64) {
    if client { (seed, seed ^ 1) } else { (seed ^ 1, seed) }
}

fn send(mut stream: &ByteStream, seed: u64, mut left: u64) {
    let (mut bytes, mut chance) = (Bytes::new(seed), Chance::new(seed ^ 77));
    while left > 0 {
        let len = size(&mut chance).min(usize::try_from(left).expect("64 bits"));
        let mut some = vec![0; len];
        bytes.fill(&mut some);
        stream.write_all(&some).expect("room");
        left -= len as u64;
    }
}

fn receive(stream: &ByteStream, seed: u64, mut left: u64) {
    let (mut bytes, mut chance) = (Bytes::new(seed), Chance::new(seed ^ 78));
    while left > 0 {
        let mut some = vec![0; size(&mut chance).min(usize::try_from(left).expect("64 bits"))];
        let count = stream.read(&mut some).expect("bytes");
        assert!(count > 0, "an end with {left} bytes missing");
        bytes.check(&some[..count]);
        left -= count as u64;
    }
}

pub(crate) fn exchange(stream: &ByteStream, seed: u64, count: u64, client: bool) {
    let (ours, theirs) = seeds(seed, client);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(stream, ours, count);
            stream.shutdown_write().expect("an end");
        });
        receive(stream, theirs, count);
        assert_eq!(stream.read(&mut [0; 8]).expect("the end"), 0);
    });
}

/// Sends back what comes, as it comes, up to the end.
pub(crate) fn echo(mut stream: &ByteStream, seed: u64) {
    let mut chance = Chance::new(seed ^ 80);
    loop {
        let mut some = vec![0; size(&mut chance)];
        let count = stream.read(&mut some).expect("bytes");
        if count == 0 {
            return stream.shutdown_write().expect("an end");
        }
        stream.write_all(&some[..count]).expect("room");
        tick();
    }
}

pub(crate) async fn exchange_in_tasks(
    stream: AsyncByteStream,
    seed: u64,
    count: u64,
    client: bool,
) {
    let (ours, theirs) = seeds(seed, client);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writes = tokio::spawn(async move {
        let (mut bytes, mut chance, mut left) = (Bytes::new(ours), Chance::new(ours ^ 77), count);
        while left > 0 {
            let len = size(&mut chance).min(usize::try_from(left).expect("64 bits"));
            let mut some = vec![0; len];
            bytes.fill(&mut some);
            writer.write_all(&some).await.expect("room");
            left -= len as u64;
        }
        writer.shutdown().await.expect("an end");
    });
    let (mut bytes, mut chance, mut left) = (Bytes::new(theirs), Chance::new(theirs ^ 78), count);
    while left > 0 {
        let mut some = vec![0; size(&mut chance).min(usize::try_from(left).expect("64 bits"))];
        let count = reader.read(&mut some).await.expect("bytes");
        assert!(count > 0, "an end with {left} bytes missing");
        bytes.check(&some[..count]);
        left -= count as u64;
    }
    assert_eq!(reader.read(&mut [0; 8]).await.expect("the end"), 0);
    writes.await.expect("the writer");
}

/// A stream of either form, for what one thread does.
#[allow(clippy::large_enum_variant, reason = "there are few of them")]
pub(crate) enum Any {
    Blocking(ByteStream),
    Async(Arc<Runtime>, AsyncByteStream),
}

impl Any {
    pub(crate) fn connect(flavour: &str, path: &Path) -> Self {
        if flavour == "blocking" {
            return Self::Blocking(options().connect_bytes(path).expect("connect"));
        }
        let runtime = Arc::new(runtime(flavour));
        let stream = runtime.block_on(options().connect_bytes_async(path)).expect("connect");
        Self::Async(runtime, stream)
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Blocking(stream) => stream.write_all(bytes),
            Self::Async(runtime, stream) => runtime.block_on(async {
                stream.write_all(bytes).await?;
                stream.flush().await
            }),
        }
    }

    pub(crate) fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Blocking(stream) => ByteStream::read(stream, into),
            Self::Async(runtime, stream) => runtime.block_on(stream.read(into)),
        }
    }

    pub(crate) fn read_exact(&mut self, into: &mut [u8]) -> std::io::Result<()> {
        let mut have = 0;
        while have < into.len() {
            match self.read(&mut into[have..])? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => have += count,
            }
        }
        Ok(())
    }

    pub(crate) fn read_to_end(&mut self) -> std::io::Result<Vec<u8>> {
        let (mut all, mut some) = (Vec::new(), vec![0; 30_000]);
        loop {
            match self.read(&mut some)? {
                0 => return Ok(all),
                count => all.extend_from_slice(&some[..count]),
            }
        }
    }

    pub(crate) fn end(&mut self) -> std::io::Result<()> {
        match self {
            Self::Blocking(stream) => stream.shutdown_write(),
            Self::Async(runtime, stream) => runtime.block_on(stream.shutdown()),
        }
    }

    /// What is left, and the error behind it.
    pub(crate) fn read_to_error(&mut self) -> (Vec<u8>, std::io::Error) {
        let (mut all, mut some) = (Vec::new(), vec![0; 30_000]);
        loop {
            match self.read(&mut some) {
                Ok(0) => panic!("an end, behind {} bytes, that nobody has set", all.len()),
                Ok(count) => all.extend_from_slice(&some[..count]),
                Err(error) => return (all, error),
            }
        }
    }
}

pub(crate) fn is_reset(error: &std::io::Error) {
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error:?}");
    assert_eq!(ByteStreamError::of(error), Some(ByteStreamError::Gone));
}
