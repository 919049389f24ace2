//! What lies in the kernel at one end of a connection.

use std::net::SocketAddr;

/// Bytes of a connection at one of its ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queues {
    /// Not sent yet, or not seen to have come.
    pub to_send: u64,
    /// Not read yet.
    pub unread: u64,
}

impl Queues {
    /// At the end that has the first address, of its connection to the second.
    pub(crate) fn at(end: SocketAddr, other: SocketAddr) -> Self {
        let ends = format!(" {} {} ", hexadecimal(end), hexadecimal(other));
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the system lists its connections");
        let line = table.lines().find(|line| line.contains(&ends)).expect("it is open");
        let (to_send, unread) = line.split_whitespace().nth(4).and_then(|queues| queues.split_once(':')).expect("its queues");
        let number = |digits| u64::from_str_radix(digits, 16).expect("a number");
        Self { to_send: number(to_send), unread: number(unread) }
    }
}

/// An address of IPv4 as that list writes it: in the machine's order of bytes.
fn hexadecimal(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port()),
        SocketAddr::V6(_) => panic!("an address of IPv4"),
    }
}
