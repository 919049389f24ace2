//! Physical floor: a single-threaded epoll TCP relay (read/write, no splice). --listen P --upstreams P,P,P
use wbench::*;
struct Half {
    fd: i32,
    peer: usize,
    pend: Vec<u8>,
    eof: bool,
}
fn main() {
    let a = Args::parse();
    let lfd = listen(a.num("listen", 8080), false);
    let ups: Vec<u16> = a.list("upstreams").iter().map(|s| s.parse().unwrap()).collect();
    let ep = Ep::new();
    ep.add(lfd, libc::EPOLLIN, u64::MAX);
    let mut h: Vec<Option<Half>> = vec![];
    let mut free: Vec<usize> = vec![];
    let mut evs = vec![libc::epoll_event { events: 0, u64: 0 }; 512];
    let mut buf = vec![0u8; 64 * 1024];
    let mut rr = 0;
    loop {
        let n = ep.wait(&mut evs, None);
        for e in &evs[..n] {
            if e.u64 == u64::MAX {
                loop {
                    let fd = unsafe {
                        libc::accept4(lfd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
                    };
                    if fd < 0 {
                        break;
                    }
                    nodelay(fd);
                    rr += 1;
                    let Ok(u) = connect(ups[rr % ups.len()], false) else {
                        unsafe { libc::close(fd) };
                        continue;
                    };
                    let mut idx = || {
                        free.pop().unwrap_or_else(|| {
                            h.push(None);
                            h.len() - 1
                        })
                    };
                    let (i, j) = (idx(), idx());
                    h[i] = Some(Half { fd, peer: j, pend: vec![], eof: false });
                    h[j] = Some(Half { fd: u, peer: i, pend: vec![], eof: false });
                    ep.add(fd, libc::EPOLLIN, i as u64);
                    ep.add(u, libc::EPOLLIN, j as u64);
                }
                continue;
            }
            let i = e.u64 as usize;
            let Some(me) = h[i].as_mut() else { continue };
            let (fd, p) = (me.fd, me.peer);
            let mut dead = false;
            if e.events as i32 & libc::EPOLLOUT != 0 && !me.pend.is_empty() {
                match raw_write(fd, &me.pend) {
                    Ok(n) => {
                        me.pend.drain(..n);
                    }
                    Err(e) => dead = e.kind() != std::io::ErrorKind::WouldBlock,
                }
                if me.pend.is_empty() {
                    ep.modi(fd, libc::EPOLLIN, i as u64);
                    let pf = h[p].as_ref().unwrap().fd;
                    ep.modi(pf, libc::EPOLLIN, p as u64);
                }
            }
            if !dead && e.events as i32 & (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
                match raw_read(fd, &mut buf) {
                    Ok(0) => dead = true,
                    Ok(n) => {
                        let o = h[p].as_mut().unwrap();
                        let w = if o.pend.is_empty() {
                            match raw_write(o.fd, &buf[..n]) {
                                Ok(w) => w,
                                Err(e)
                                    if e.kind() == std::io::ErrorKind::WouldBlock || e.raw_os_error() == Some(libc::ENOTCONN) =>
                                {
                                    0
                                }
                                Err(_) => {
                                    dead = true;
                                    n
                                }
                            }
                        } else {
                            0
                        };
                        if w < n {
                            o.pend.extend_from_slice(&buf[w..n]);
                            let of = o.fd;
                            ep.modi(of, libc::EPOLLIN | libc::EPOLLOUT, p as u64);
                            ep.modi(fd, 0, i as u64);
                        }
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => dead = true,
                }
            }
            if dead {
                for k in [i, p] {
                    if let Some(x) = h[k].take() {
                        unsafe { libc::close(x.fd) };
                        free.push(k);
                        let _ = x.eof;
                    }
                }
            }
        }
    }
}
