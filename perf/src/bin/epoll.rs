//! The limit: one thread, one epoll, a constant answer for each request. With `--parse` each request is parsed by
//! httparse; without, every empty line counts as a request's end.
//!
//!     epoll PORT [--parse]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n\
    Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 47\r\n\r\n\
    {\"resp_code\":0,\"msg\":\"success\",\"id\":1234567890}";
const EVENTS_MAX: usize = 1024;

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let port = args.next().and_then(|port| port.parse().ok()).expect("usage: epoll PORT [--parse]");
    let parse = args.next().is_some_and(|arg| arg == "--parse");
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    listener.set_nonblocking(true)?;
    // SAFETY: takes no pointer.
    let epoll = unsafe { libc::epoll_create1(0) };
    watch(epoll, &listener, u64::MAX);
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
    let (mut input, mut output) = (vec![0; 64 * 1024], Vec::with_capacity(64 * 1024));
    loop {
        // SAFETY: `events` has room for as many as are asked for.
        let ready = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), EVENTS_MAX as i32, -1) };
        for event in &events[..ready.max(0) as usize] {
            let token = event.u64;
            if token == u64::MAX {
                accept(epoll, &listener, &mut connections);
            } else if let Some(stream) = &mut connections[token as usize]
                && !serve(stream, parse, &mut input, &mut output)
            {
                connections[token as usize] = None;
            }
        }
    }
}

fn watch(epoll: i32, socket: &impl AsRawFd, token: u64) {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
    // SAFETY: `event` lives for the call, and both descriptors are open.
    unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &mut event) };
}

fn accept(epoll: i32, listener: &TcpListener, connections: &mut Vec<Option<TcpStream>>) {
    while let Ok((stream, _)) = listener.accept() {
        let _ = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        watch(epoll, &stream, connections.len() as u64);
        connections.push(Some(stream));
    }
}

/// False when the client is gone. Requests that come in two parts are not put together: the load has none.
fn serve(stream: &mut TcpStream, parse: bool, input: &mut [u8], output: &mut Vec<u8>) -> bool {
    let received = match stream.read(input) {
        Ok(0) => return false,
        Ok(bytes) => &input[..bytes],
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    };
    output.clear();
    let requests =
        if parse { parsed(received) } else { memchr::memmem::find_iter(received, b"\r\n\r\n").count() };
    (0..requests).for_each(|_| output.extend_from_slice(ANSWER));
    stream.write_all(output).is_ok()
}

fn parsed(mut bytes: &[u8]) -> usize {
    let mut requests = 0;
    while !bytes.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        match httparse::Request::new(&mut headers).parse(bytes) {
            Ok(httparse::Status::Complete(length)) => bytes = &bytes[length..],
            _ => break,
        }
        requests += 1;
    }
    requests
}
