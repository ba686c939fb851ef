//! Somebody in between, who cannot read what is encrypted and says something of its own before it is.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

/// Passes connections on to the port `to`, until the test program ends; returns its own port. `behind_request` goes to the
/// server in one piece with the client's request for encryption, `behind_answer` to the client in one with the answer.
///
/// # Panics
/// When no port is free.
pub fn relay(to: u16, behind_request: &[u8], behind_answer: &[u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let (request, answer) = (behind_request.to_vec(), behind_answer.to_vec());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (request, answer) = (request.clone(), answer.clone());
            // A connection that ends early is what this is about.
            std::thread::spawn(move || pass(client, to, &request, &answer).ok());
        }
    });
    port
}

fn pass(mut client: TcpStream, to: u16, request: &[u8], answer: &[u8]) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", to))?;
    let mut asked = [0; 8];
    client.read_exact(&mut asked)?;
    server.write_all(&[&asked, request].concat())?;
    let mut answered = [0];
    server.read_exact(&mut answered)?;
    client.write_all(&[&answered, answer].concat())?;
    let (mut from, mut into) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        io::copy(&mut from, &mut into).and_then(|_| into.shutdown(std::net::Shutdown::Write)).ok()
    });
    io::copy(&mut client, &mut server)?;
    server.shutdown(std::net::Shutdown::Write)
}
