//! A program that serves on sockets, wherever they are: what runs natively and in a guest.

use super::{Bytes, Id, Network, News, Outcome, Place, Purpose};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

/// What is served at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// What comes goes back; a stream is closed when its other side has ended.
    Echo,
    /// HTTP/1.1: `GET /<hex>` is answered with the bytes that the path spells, and the connection
    /// closed.
    Http,
    /// Whoever connects is told how this program has slept.
    Sleeps,
}

/// Longest head of a request for HTTP.
const HEAD_MOST: usize = 16 << 10;

/// One socket of the program.
#[derive(Debug)]
struct Served {
    offer: Offer,
    /// What came and did not go back yet; of the first so much did. With its sender, if it is a
    /// datagram.
    waiting: VecDeque<(Option<SocketAddr>, Bytes)>,
    gone: usize,
    ended: bool,
    /// A request so far; or of an answer what did not go yet.
    text: Vec<u8>,
    answering: bool,
}

impl Served {
    fn new(offer: Offer) -> Self {
        let waiting = VecDeque::new();
        Self { offer, waiting, gone: 0, ended: false, text: Vec::new(), answering: false }
    }
}

/// Serves at these places until the network is over. `ready` is told where they are once all are
/// there.
pub(crate) fn serve<N: Network>(
    network: &mut N,
    places: &[(Place, Offer)],
    mut ready: impl FnMut(&mut N, &[Place]) -> Outcome<()>,
) -> Outcome<()> {
    let mut served = HashMap::new();
    let mut opened = Vec::new();
    for (place, offer) in places {
        let id = network.open(place, Purpose::Listen)?;
        served.insert(id, Served::new(*offer));
        opened.push((id, None));
    }
    loop {
        match network.next()? {
            News::Listening { socket, at } => {
                for (id, place) in &mut opened {
                    if *id == socket {
                        *place = Some(at.clone());
                    }
                }
                let there: Vec<Place> =
                    opened.iter().filter_map(|(_, place)| place.clone()).collect();
                if there.len() == opened.len() {
                    ready(network, &there)?;
                }
            }
            News::Accepted { listener, socket } => {
                let offer = served.get(&listener).ok_or("a connection to nowhere")?.offer;
                let mut socket_of = Served::new(offer);
                if offer == Offer::Sleeps {
                    socket_of.text = network.sleeps().line().into_bytes();
                    socket_of.answering = true;
                }
                served.insert(socket, socket_of);
                go_on(network, &mut served, socket)?;
            }
            News::Data { socket, bytes } => came(network, &mut served, socket, None, bytes)?,
            News::Datagram { socket, from, bytes } => {
                came(network, &mut served, socket, Some(from), bytes)?
            }
            News::Room { socket } => {
                go_on(network, &mut served, socket)?;
            }
            News::Ended { socket } => {
                if let Some(socket_of) = served.get_mut(&socket) {
                    socket_of.ended = true;
                }
                go_on(network, &mut served, socket)?;
            }
            News::Closed { socket, why } => {
                if let Some((_, None)) = opened.iter().find(|(id, _)| *id == socket) {
                    return Err(format!("cannot serve there: errno {why:?}").into());
                }
                served.remove(&socket);
            }
            News::Connected { .. } => {}
        }
    }
}

fn came(
    network: &mut impl Network,
    served: &mut HashMap<Id, Served>,
    id: Id,
    from: Option<SocketAddr>,
    bytes: Bytes,
) -> Outcome<()> {
    // Closed by the program meanwhile.
    let Some(socket) = served.get_mut(&id) else { return Ok(()) };
    match socket.offer {
        Offer::Echo => socket.waiting.push_back((from, bytes)),
        Offer::Http | Offer::Sleeps if socket.answering => network.took(id, bytes)?,
        Offer::Http | Offer::Sleeps => {
            socket.text.extend_from_slice(&bytes);
            network.took(id, bytes)?;
            let whole = socket.text.windows(4).any(|end| end == b"\r\n\r\n");
            if whole || socket.text.len() > HEAD_MOST {
                socket.text = answer(&socket.text);
                socket.answering = true;
            }
        }
    }
    go_on(network, served, id)
}

/// Sends what can be sent, and closes what is over.
fn go_on(network: &mut impl Network, served: &mut HashMap<Id, Served>, id: Id) -> Outcome<()> {
    if let Some(socket) = served.get_mut(&id)
        && send_more(network, id, socket)?
    {
        network.close(id)?;
        served.remove(&id);
    }
    Ok(())
}

/// Sends what can be sent. Whether the socket is over.
fn send_more(network: &mut impl Network, id: Id, socket: &mut Served) -> Outcome<bool> {
    if socket.answering {
        let sent = network.send(id, &socket.text)?;
        socket.text.drain(..sent);
        return Ok(socket.text.is_empty());
    }
    while let Some((from, bytes)) = socket.waiting.front() {
        match from {
            Some(from) => {
                if !network.send_to(id, *from, bytes)? {
                    return Ok(false);
                }
            }
            None => {
                socket.gone += network.send(id, &bytes[socket.gone..])?;
                if socket.gone < bytes.len() {
                    return Ok(false);
                }
                socket.gone = 0;
            }
        }
        if let Some((_, bytes)) = socket.waiting.pop_front() {
            network.took(id, bytes)?;
        }
    }
    Ok(socket.ended)
}

/// The answer to a request for HTTP.
fn answer(request: &[u8]) -> Vec<u8> {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let path = line.strip_prefix(b"GET /").and_then(|rest| rest.split(|byte| *byte == b' ').next());
    let body = path.and_then(unhex);
    let status = if body.is_some() { "200 OK" } else { "400 Bad Request" };
    let body = body.unwrap_or_default();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), &body].concat()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}
