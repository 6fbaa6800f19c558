//! Accepts connections and hands each to the worker with the fewest.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use socket2::SockFilter;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{LINGERING_MAX, WorkerPort};
use crate::episode::Episode;
use crate::http::handler::{Service, too_many_connections};
use crate::http::linger::{Linger, discard_until_closed};
use crate::http::response::{Delivery, Encoder};

/// The pause after accepting failed for want of descriptors or memory; without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a refused client may take to read its 503.
const LINGER: Linger = Linger { silence_max: Duration::from_millis(500), time_max: Duration::from_secs(2) };

pub(super) struct Acceptor {
    ports: Vec<WorkerPort>,
    connections_max: usize,
    service: Arc<Service>,
    failing: Episode,
    refusing: Episode,
}

impl Acceptor {
    pub fn new(ports: Vec<WorkerPort>, connections_max: usize, service: Arc<Service>) -> Self {
        Self { ports, connections_max, service, failing: Episode::default(), refusing: Episode::default() }
    }

    /// Accepts until told to stop, and then those who had connected before.
    pub async fn run(mut self, listener: &TcpListener, mut stopped: watch::Receiver<bool>) {
        let readable = register(listener).expect("the runtime takes the listener");
        let lingering = Rc::new(());
        loop {
            let accepted = tokio::select! {
                accepted = readable.async_io(Interest::READABLE, |_| listener.accept()) => accepted,
                _ = stopped.changed() => break,
            };
            match accepted {
                Ok((stream, _)) => self.dispatch(stream, &lingering),
                Err(error) => self.pause_after(&error).await,
            }
        }
        refuse_handshakes(listener);
        for _ in 0..self.connections_max {
            let Ok((stream, _)) = listener.accept() else { return };
            self.dispatch(stream, &lingering);
        }
    }

    fn dispatch(&mut self, stream: TcpStream, lingering: &Rc<()>) {
        if self.failing.is_over() {
            info!("accepting connections again");
        }
        // Relaxed: counts, no more; only this thread counts up, so the limit holds.
        let open: usize = self.ports.iter().map(|port| port.open.load(Relaxed)).sum();
        if open >= self.connections_max {
            self.note_refusing();
            return self.refuse(stream, lingering);
        }
        if self.refusing.is_over() {
            info!("all connections are accepted again");
        }
        if let Err(stream) = self.hand_over(stream) {
            self.refuse(stream, lingering);
        }
    }

    /// Gives the connection to the worker with the fewest; back when that has ended for good, and so the server ends.
    fn hand_over(&self, stream: TcpStream) -> Result<(), TcpStream> {
        let Some(port) = self.ports.iter().min_by_key(|port| port.open.load(Relaxed)) else {
            return Err(stream);
        };
        port.open.fetch_add(1, Relaxed);
        port.connections.send(stream).map_err(|SendError(unserved)| {
            port.open.fetch_sub(1, Relaxed);
            unserved
        })?;
        self.service.counters.connections.note_accepted();
        Ok(())
    }

    fn refuse(&self, stream: TcpStream, lingering: &Rc<()>) {
        self.service.counters.connections.note_refused();
        // An error means that the client is gone.
        if let Ok(stream) = tell_refused(stream)
            && Rc::strong_count(lingering) <= LINGERING_MAX
        {
            tokio::task::spawn_local(linger(stream, lingering.clone()));
        }
    }

    fn note_refusing(&mut self) {
        if self.refusing.holds(Instant::now()) {
            warn!(MaxConnections = self.connections_max, "no more connections: refusing with 503");
        }
    }

    async fn pause_after(&mut self, error: &io::Error) {
        // The client was gone before it was accepted: that says nothing about this machine.
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
            return;
        }
        if self.failing.holds(Instant::now()) {
            warn!(%error, "cannot accept connections; trying again");
        }
        sleep(ACCEPT_PAUSE).await;
    }
}

/// From here on nobody connects any more. A close resets connections that are not accepted yet, and their clients cannot
/// know whether what they sent was taken. A SYN without an answer is sent again, and is refused once the listener is closed:
/// then nothing was sent, and the client may try another server. Connections whose SYN was answered get in.
fn refuse_handshakes(listener: &TcpListener) {
    #[cfg(target_os = "linux")]
    {
        const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
        const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
        const JUMP_UNLESS_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        /// Where a TCP header has its flags (RFC 9293, 3.1).
        const FLAGS_OFFSET: u32 = 13;
        const SYN: u32 = 0x02;
        const ACK: u32 = 0x10;
        let drop_handshakes = [
            SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_OFFSET),
            SockFilter::new(AND, 0, 0, SYN | ACK),
            SockFilter::new(JUMP_UNLESS_EQUAL, 0, 1, SYN),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
        ];
        // Without it, the end is as it is on other systems.
        let _ = SockRef::from(listener).attach_filter(&drop_handshakes);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = listener;
}

/// Makes the listener known to the runtime.
fn register(listener: &TcpListener) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: the descriptor is that of `listener`, which is open for as long as it is borrowed.
    Ok(unsafe { AsyncFd::register_with_interest(listener.as_fd(), Interest::READABLE) }?)
}

/// Tells a client that it is one too many.
fn tell_refused(stream: TcpStream) -> io::Result<TcpStream> {
    let mut response = Vec::new();
    Encoder::new().encode(&too_many_connections(), Delivery::LAST, &mut response);
    stream.set_nonblocking(true)?;
    SockRef::from(&stream).send(&response)?;
    stream.shutdown(Shutdown::Write)?;
    Ok(stream)
}

async fn linger(stream: TcpStream, _lingering: Rc<()>) {
    if let Ok(stream) = stream.try_into() {
        discard_until_closed(&stream, LINGER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::sync::atomic::AtomicUsize;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    fn port() -> (WorkerPort, UnboundedReceiver<TcpStream>) {
        let (connections, arrivals) = unbounded_channel();
        (WorkerPort { connections, open: Arc::<AtomicUsize>::default() }, arrivals)
    }

    #[test]
    fn the_connections_of_a_worker_that_has_ended_for_good_are_refused() {
        let service = Service::default();
        let (port, mut arrivals) = port();
        let mut acceptor = Acceptor::new(vec![port], 100, Arc::new(service));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = |acceptor: &mut Acceptor| {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            acceptor.dispatch(listener.accept().unwrap().0, &Rc::new(()));
            client
        };
        let _clients = [connect(&mut acceptor), connect(&mut acceptor)];
        assert!(arrivals.try_recv().is_ok() && arrivals.try_recv().is_ok(), "both are the worker's");
        drop(arrivals);
        let local = tokio::task::LocalSet::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        local.block_on(&runtime, async {
            let mut answer = [0; 12];
            connect(&mut acceptor).read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 503");
        });
        assert_eq!(acceptor.service.counters.connections.accepted(), 2);
        assert_eq!(acceptor.service.counters.connections.refused(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn before_the_listener_closes_nobody_new_gets_in_and_nobody_who_has_is_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut early = TcpStream::connect(address).unwrap();
        refuse_handshakes(&listener);
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(200));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut, "its SYN has no answer");
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(listener);
        accepted.set_nonblocking(false).unwrap();
        early.write_all(b"x").unwrap();
        assert_eq!((&accepted).read(&mut [0; 2]).unwrap(), 1);
        let refused = TcpStream::connect_timeout(&address, Duration::from_secs(5));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
