//! The smallest useful program: a server on one thread, a client on another. Two processes look the
//! same.
//!
//! ```text
//! cargo run --example echo
//! ```

use ringbell::{Client, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let socket = std::env::temp_dir().join(format!("ringbell-echo-{}.sock", std::process::id()));

    let server = Server::bind(&socket)?;
    let handle = server.handle();
    let serving = std::thread::spawn(move || {
        server.run(|request, response| {
            response.extend_from_slice(request.payload());
            Ok(())
        })
    });

    let mut client = Client::connect(&socket)?;
    let answer = client.call(b"hello, server")?;
    println!("{}", String::from_utf8_lossy(&answer));

    drop(client);
    handle.shutdown(None);
    let stats = serving.join().expect("the server does not panic")?;
    println!("{} request served", stats.requests);
    Ok(())
}
