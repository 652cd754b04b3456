//! Layers of tower around both ends: on the client's side tracing, load shedding, a limit of calls
//! at once, retries and a timeout; on the server's a limit and a timeout.
//!
//! ```text
//! cargo run -p ringbell-interop --example tower_stack
//! ```

use ringbell::{AsyncClient, CallError, HandlerError, OwnedRequest, Server};
use std::future::{Ready, ready};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use tower::load_shed::error::Overloaded;
use tower::retry::Policy;
use tower::timeout::error::Elapsed;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
use tracing::{Instrument, info_span};

/// What the server says of requests that should be made again.
const TRY_AGAIN: u16 = 11;

/// What came of the calls.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Good answers.
    pub(crate) answered: u32,
    /// Calls that were not made, since too many were under way.
    pub(crate) shed: u32,
    /// Calls that took too long.
    pub(crate) timed_out: u32,
    /// How often a call was made again.
    pub(crate) retried: u32,
    /// Requests that the server handled to their end.
    pub(crate) handled: u32,
}

/// Makes a call again if the server says so, three times at most.
#[derive(Debug, Clone)]
struct Again {
    left: u32,
    retried: Arc<Mutex<u32>>,
}

impl Policy<Vec<u8>, Vec<u8>, BoxError> for Again {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Vec<u8>,
        outcome: &mut Result<Vec<u8>, BoxError>,
    ) -> Option<Ready<()>> {
        let error = outcome.as_ref().err()?.downcast_ref::<CallError>()?;
        let CallError::Remote(error) = error else { return None };
        if error.code != ringbell::layout::code::APPLICATION + TRY_AGAIN {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        *self.retried.lock().expect("a count") += 1;
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &Vec<u8>) -> Option<Vec<u8>> {
        Some(request.clone())
    }
}

/// Every fifth request is to be made again once, every seventh takes long.
async fn handle(
    request: OwnedRequest,
    seen: Arc<Mutex<Vec<u8>>>,
    handled: Arc<Mutex<u32>>,
) -> Result<Vec<u8>, HandlerError> {
    let number = request.payload()[0];
    let first = {
        let mut seen = seen.lock().expect("a list");
        let first = !seen.contains(&number);
        seen.push(number);
        first
    };
    if number.is_multiple_of(5) && first {
        return Err(HandlerError::new(TRY_AGAIN, "try again"));
    }
    if number.is_multiple_of(7) {
        // Longer than anybody waits: the caller's timeout drops the call, and the server drops this
        // future.
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    *handled.lock().expect("a count") += 1;
    Ok(request.into_payload())
}

/// Serves and calls, over whatever carries the session; what came of it.
///
/// # Errors
/// Whatever goes wrong that should not.
pub(crate) async fn run(socket: &Path) -> Result<Summary, BoxError> {
    let server = Server::bind(socket)?;
    let stop = server.handle();
    let (seen, handled) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
    let count = handled.clone();
    let service = ServiceBuilder::new()
        .concurrency_limit(64)
        .timeout(Duration::from_secs(1800))
        .service_fn(move |request: OwnedRequest| {
            let number = request.payload()[0];
            handle(request, seen.clone(), count.clone()).instrument(info_span!("handle", number))
        });
    let serving = tokio::spawn(server.serve_tower(service));

    let client = AsyncClient::connect(socket).await?;
    let retried = Arc::new(Mutex::new(0));
    let stack = ServiceBuilder::new()
        .map_future(|call| Instrument::instrument(call, info_span!("call")))
        .load_shed()
        .concurrency_limit(40)
        .retry(Again { left: 3, retried: retried.clone() })
        .timeout(Duration::from_millis(500))
        .service(client);

    let mut summary = Summary::default();
    // 40 at once, and twice as many again that come in the same moment.
    let mut calls = Vec::new();
    for number in 0..120_u8 {
        let mut stack = stack.clone();
        // Asked for in turn, made at once.
        let call = match stack.ready().await {
            Ok(ready) => Ok(tokio::spawn(ready.call(vec![number]))),
            Err(error) => Err(error),
        };
        calls.push((number, call));
    }
    for (number, call) in calls {
        let outcome = match call {
            Ok(call) => call.await?,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(answer) if answer == [number] => summary.answered += 1,
            Ok(answer) => return Err(format!("call {number} was answered {answer:?}").into()),
            Err(error) if error.is::<Overloaded>() => summary.shed += 1,
            Err(error) if error.is::<Elapsed>() => summary.timed_out += 1,
            Err(error) => return Err(error),
        }
    }
    stop.shutdown(Some(Duration::from_secs(10)));
    serving.await??;
    summary.retried = *retried.lock().expect("a count");
    summary.handled = *handled.lock().expect("a count");
    Ok(summary)
}

#[allow(dead_code, reason = "the test has a main of its own")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).init();
    let socket = std::env::temp_dir().join(format!("ringbell-tower-{}.sock", std::process::id()));
    let summary = run(&socket).await?;
    println!("{summary:?}");
    Ok(())
}
