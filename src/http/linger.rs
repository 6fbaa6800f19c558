//! The end of a connection whose client may still be sending: what comes after the last answer is dropped, so that the
//! answer arrives.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The most that is dropped after the last answer: what a client sends that does not read before it has sent all.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The most that is dropped before the other connections have their turn.
const LINGER_BYTES_PER_TURN: usize = 64 * 1024;

/// How long a client is listened to after the last answer.
#[derive(Debug, Clone, Copy)]
pub struct Linger {
    /// While it sends nothing.
    pub silence_max: Duration,
    /// While it goes on sending.
    pub time_max: Duration,
}

/// Drops what comes after the last answer, and its end, until the client has closed too, within the limits of `linger`: a
/// close with unread bytes would reset the connection, and could take that answer with it (RFC 9112, 9.6).
pub async fn discard_until_closed(stream: &TcpStream, linger: Linger) {
    let until_closed = async {
        let mut bytes_left = LINGER_BYTES_MAX;
        while bytes_left > 0 {
            if !matches!(timeout(linger.silence_max, stream.readable()).await, Ok(Ok(()))) {
                return;
            }
            match stream.try_io(Interest::READABLE, || discard(stream)) {
                Ok(0) => return,
                Ok(bytes) => bytes_left = bytes_left.saturating_sub(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            tokio::task::yield_now().await;
        }
    };
    // However it ends, the connection is closed now.
    let _ = timeout(linger.time_max, until_closed).await;
}

/// Drops some of the bytes that have arrived, and says how many; none at the end of them.
fn discard(stream: &TcpStream) -> io::Result<usize> {
    // With this flag the system does not write them here.
    let mut nowhere = [MaybeUninit::uninit(); LINGER_BYTES_PER_TURN];
    SockRef::from(stream).recv_with_flags(&mut nowhere, libc::MSG_TRUNC)
}
