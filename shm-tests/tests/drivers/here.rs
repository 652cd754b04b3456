//! A server of async handlers in this process, on a runtime of its own.

use futures_core::Stream;
use ringbell::sync::{Ordering, PlainU64};
use ringbell::{
    AsyncClient, AsyncService, HandlerError, Inline, OwnedRequest, Responder, ServeError, Session,
    StreamError,
};
use ringbell_shm_tests::driver::{runtime_of_one, runtime_of_two};
use ringbell_shm_tests::options;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_requests::{item, words};
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::Runtime;

/// A server of async handlers in this process, on a runtime of its own.
pub(crate) struct Here {
    /// `None` if it was cut off.
    pub(crate) thread: std::thread::JoinHandle<Option<Result<ringbell::ServerStats, ServeError>>>,
    pub(crate) cut_off: tokio::sync::oneshot::Sender<()>,
    pub(crate) handle: ringbell::ServerHandle,
    pub(crate) counts: Arc<Counts>,
    pub(crate) path: PathBuf,
    pub(crate) _place: tempfile::TempDir,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) begun: PlainU64,
    pub(crate) finished: PlainU64,
    /// Handlers that were dropped before they were done.
    pub(crate) dropped: PlainU64,
    pub(crate) sent: PlainU64,
    pub(crate) opened: PlainU64,
    pub(crate) closed: PlainU64,
}

fn add(count: &PlainU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn read(count: &PlainU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// Counts a handler that does not come to its end.
struct Unfinished(Option<Arc<Counts>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(counts) = &self.0 {
            add(&counts.dropped);
        }
    }
}

struct Waiting(Arc<Counts>);

impl AsyncService for Waiting {
    fn request(
        &mut self,
        request: OwnedRequest,
        responder: Responder,
    ) -> impl Future<Output = ()> + Send + 'static {
        let counts = self.0.clone();
        async move {
            add(&counts.begun);
            let mut unfinished = Unfinished(Some(counts.clone()));
            waiting(&counts, request, responder).await;
            unfinished.0 = None;
            add(&counts.finished);
        }
    }

    fn opened(&mut self, _: &Session) {
        add(&self.0.opened);
    }

    fn closed(&mut self, _: &Session) {
        add(&self.0.closed);
    }
}

/// | verb | what |
/// |---|---|
/// | `e` | echoes; `y` after `n` turns of others, `z` after `n` us |
/// | `n` | never answers |
/// | `s` | a stream of `n` items |
/// | `v` | pushes `n` events, then answers |
/// | `x` | an error; `p` panics, `d` drops the responder |
async fn waiting(counts: &Counts, request: OwnedRequest, responder: Responder) {
    let payload = request.payload();
    let told = words(&payload[1..17]);
    let (number, n) = (told[0], told[1]);
    let session = request.session();
    match payload[0] {
        b'e' => {}
        b'y' => {
            for _ in 0..n {
                tokio::task::yield_now().await;
            }
        }
        b'z' => tokio::time::sleep(Duration::from_micros(n)).await,
        b'n' => std::future::pending().await,
        b's' => {
            let mut stream = responder.stream();
            for index in 0..n {
                match stream.send_async(&item(session.id(), number, index, 100)).await {
                    Ok(()) => add(&counts.sent),
                    Err(StreamError::Cancelled | StreamError::Disconnected) => return,
                    Err(error) => panic!("{error:?}"),
                }
            }
            return stream.end();
        }
        b'v' => {
            for index in 0..n {
                while session.push(&index.to_le_bytes()).is_err() {
                    tokio::task::yield_now().await;
                }
            }
        }
        b'x' => return responder.error(HandlerError::new(7, "no")),
        b'p' => panic!("in a handler"),
        b'd' => return drop(responder),
        other => panic!("no verb {other}"),
    }
    responder.reply(payload);
}

impl Here {
    pub(crate) fn new(runtime: fn() -> Runtime, inline: Inline) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("here.sock");
        let server = ringbell::Server::builder()
            .inline(inline)
            .max_in_flight(5000)
            .stream_stall_timeout(None)
            .bind(&path)
            .expect("bind");
        let handle = server.handle();
        let counts = Arc::new(Counts::default());
        let service = Waiting(counts.clone());
        let (cut_off, mut cut) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = runtime();
            let ended = runtime.block_on(async {
                let mut task = tokio::spawn(server.serve(service));
                poll_fn(|cx| match Pin::new(&mut task).poll(cx) {
                    Poll::Ready(ended) => Poll::Ready(Some(ended.expect("a task"))),
                    Poll::Pending => Pin::new(&mut cut).poll(cx).map(|_| None),
                })
                .await
            });
            runtime.shutdown_background();
            ended
        });
        Self { thread, cut_off, handle, counts, path, _place: place }
    }

    /// Both flavours; with and without a first poll where requests are read.
    pub(crate) fn each(mut test: impl FnMut(&'static str, Self)) {
        for inline in [Inline::Never, Inline::Short] {
            test("one thread", Self::new(runtime_of_one, inline));
            tick();
            test("two threads", Self::new(runtime_of_two, inline));
            tick();
        }
    }

    pub(crate) async fn client(&self) -> AsyncClient {
        options().connect_async(&self.path).await.expect("connect")
    }

    /// Shuts it down, waiting for handlers for so long; what it counted.
    pub(crate) fn stop(self, drain: Duration) -> ringbell::ServerStats {
        self.handle.shutdown(Some(drain));
        let stats =
            self.thread.join().expect("a thread").expect("it was not cut off").expect("it serves");
        assert_eq!(read(&self.counts.opened), stats.accepted);
        assert_eq!(read(&self.counts.closed), stats.accepted);
        assert_eq!(stats.backstop_rescues, 0);
        stats
    }
}

/// The client's side has a runtime of its own.
pub(crate) fn block_on<R>(work: impl Future<Output = R>) -> R {
    runtime_of_one().block_on(work)
}

pub(crate) async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}
