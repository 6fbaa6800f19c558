//! What the kernel still holds of a socket's bytes, in either direction.

use std::os::fd::{AsFd, AsRawFd};

/// From linux/sockios.h: bytes that were not even sent, because the client has not taken what came before.
const SIOCOUTQNSD: libc::Ioctl = 0x894b;

/// Where tcpi_bytes_received stands in the tcp_info of linux/tcp.h.
const BYTES_RECEIVED: std::ops::Range<usize> = 128..136;

/// Bytes that the client's kernel has not acknowledged. It decreases as the client reads.
pub fn unacknowledged_bytes(socket: &impl AsFd) -> usize {
    // SIOCOUTQ is the same number.
    queued_bytes(socket, libc::TIOCOUTQ)
}

/// Bytes that could not be sent yet. A busy connection has none: its last answer is merely not acknowledged.
pub fn unsent_bytes(socket: &impl AsFd) -> usize {
    queued_bytes(socket, SIOCOUTQNSD)
}

/// Bytes that have arrived and were not read.
pub fn unread_bytes(socket: &impl AsFd) -> usize {
    queued_bytes(socket, libc::FIONREAD)
}

/// Bytes that have arrived since the connection was made, read or not; `None` if the system does not say.
pub fn received_bytes(socket: &impl AsFd) -> Option<u64> {
    let mut info = [0_u8; 256];
    let mut length = info.len() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: at most `length` bytes are written to `info`, which has so many; the descriptor is open while it is borrowed.
    let result = unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    let bytes = info.get(BYTES_RECEIVED).filter(|_| result == 0 && length as usize >= BYTES_RECEIVED.end)?;
    bytes.try_into().map(u64::from_ne_bytes).ok()
}

fn queued_bytes(socket: &impl AsFd, request: libc::Ioctl) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: each of the requests writes one c_int to the address they are given; the descriptor is open while it is borrowed.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, &mut bytes) };
    if result == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}
