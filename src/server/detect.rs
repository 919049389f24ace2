//! Which HTTP a plain connection speaks, seen from its first bytes.
//!
//! A client with prior knowledge of HTTP/2 begins with a preface that no HTTP/1.1 request can begin with. The bytes read to see it
//! are kept and given to whoever reads on, since peeking into the socket's queue would wake up for every byte that drips in.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Bytes read and not yet given on.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    bytes: [u8; PREFACE.len()],
    from: u8,
    to: u8,
}

impl Prefix {
    pub(super) const fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// What it is.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(usize::from(self.from)..usize::from(self.to)).unwrap_or_default()
    }

    /// Gives as much as there is room for.
    pub(super) fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = self.bytes();
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(rest.get(..count).unwrap_or_default());
        self.from += count as u8;
    }
}

/// Reads until it is clear; `None` when the peer went before it sent anything. What was read is in `prefix`, also when nobody
/// waits for the end.
pub(super) async fn detect<S: AsyncRead + Unpin>(socket: &mut S, prefix: &mut Prefix) -> io::Result<Option<Version>> {
    loop {
        let have = usize::from(prefix.to);
        let count = socket.read(prefix.bytes.get_mut(have..).unwrap_or_default()).await?;
        prefix.to += count as u8;
        let seen = prefix.bytes.get(..have + count).unwrap_or_default();
        match PREFACE.strip_prefix(seen) {
            _ if seen.is_empty() => return Ok(None),
            Some([]) => return Ok(Some(Version::Http2)),
            Some(_) if count > 0 => {}
            // A preface that ends early is no HTTP/2; hyper says what it thinks of it.
            _ => return Ok(Some(Version::Http1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is detected when `bytes` come in chunks of `size`, and what is given on.
    fn run(bytes: &[u8], size: usize) -> Option<(Version, Vec<u8>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut client, mut server) = tokio::io::duplex(size);
            let bytes = bytes.to_vec();
            let sender = tokio::spawn(async move {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut client, &bytes).await;
            });
            let mut prefix = Prefix::default();
            let version = detect(&mut server, &mut prefix).await.unwrap()?;
            let mut all = vec![0; 64];
            let mut buffer = ReadBuf::new(&mut all);
            prefix.give(&mut buffer);
            assert!(prefix.is_empty());
            let mut given = buffer.filled().to_vec();
            server.read_to_end(&mut given).await.unwrap();
            sender.await.unwrap();
            Some((version, given))
        })
    }

    #[test]
    fn knows_the_preface_from_anything_else() {
        let h2 = [PREFACE.as_slice(), b"settings"].concat();
        assert_eq!(run(&h2, 64), Some((Version::Http2, h2.clone())));
        assert_eq!(run(&h2, 1), Some((Version::Http2, h2)));
        assert_eq!(run(b"GET / HTTP/1.1\r\n", 64).unwrap().0, Version::Http1);
        assert_eq!(run(b"PRI * HTTP/2.0\r\n", 3).unwrap().0, Version::Http1);
        assert_eq!(run(b"P", 3).unwrap().0, Version::Http1);
        assert_eq!(run(b"", 3), None);
    }

    proptest! {
        #[test]
        fn no_byte_is_lost(bytes in prop::collection::vec(any::<u8>(), 1..60), size in 1_usize..40) {
            prop_assert_eq!(run(&bytes, size).unwrap().1, bytes);
        }
    }
}
