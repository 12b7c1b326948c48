//! The floor of the bench: a bare epoll echo server in one thread, or in several that share nothing.
//!
//! It speaks just enough of the Pomelo client protocol to be measured beside real servers: the handshake answer,
//! heartbeats, `echo` (same id, same body), `bind` (sets a bit) and `push` (one package to every bound socket). It keeps
//! no session, no uid, no limits and no metrics: what it costs is what the kernel costs, and what every server of this
//! kind pays before it does any work of its own.
//!
//! - `main.rs`: flags, listeners, the event loop.
//! - `client.rs`: the sockets, and what is cut short on them.
//! - `wire.rs`: packages and the three routes.
//! - `ws.rs`: the WebSocket upgrade and frames.

mod client;
mod wire;
mod ws;

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use clap::Parser;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{self, AddressFamily, SocketFlags, SocketType, sockopt},
};

use crate::client::{Clients, Transport};

/// A bare epoll server: the price of the kernel.
#[derive(Parser)]
struct Args {
    /// TCP port on 127.0.0.1.
    #[arg(long, default_value_t = 3100)]
    port: u16,
    /// WebSocket port on 127.0.0.1. Without it there is no WebSocket listener.
    #[arg(long)]
    ws_port: Option<u16>,
    /// Threads, each with listeners and sockets of its own; a push reaches those of its thread only.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// As many ready sockets as one call tells of.
const EVENTS: usize = 1024;
/// Connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Tags of the listeners. Sockets have their file descriptor as tag.
const TCP_TAG: u64 = u64::MAX;
const WS_TAG: u64 = u64::MAX - 1;

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    // All listen before one serves: the kernel spreads connections over those that are there.
    let listeners = (0..args.threads.max(1))
        .map(|_| Ok((listen(args.port)?, args.ws_port.map(listen).transpose()?)))
        .collect::<Result<Vec<_>, Errno>>()?;
    println!("listening");
    let threads: Vec<_> = listeners
        .into_iter()
        .map(|(tcp, ws)| std::thread::spawn(move || serve(&tcp, ws.as_ref())))
        .collect();
    for thread in threads {
        thread
            .join()
            .map_err(|_| std::io::Error::other("a thread panicked"))??;
    }
    Ok(())
}

/// One thread's loop. Ends only with an error.
fn serve(tcp: &OwnedFd, ws: Option<&OwnedFd>) -> std::io::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, tcp, EventData::new_u64(TCP_TAG), EventFlags::IN)?;
    if let Some(ws) = ws {
        epoll::add(&poll, ws, EventData::new_u64(WS_TAG), EventFlags::IN)?;
    }
    let mut clients = Clients::new(&poll);
    let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        match epoll::wait(&poll, spare_capacity(&mut events), None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let flags = event.flags;
            match event.data.u64() {
                TCP_TAG => accept(tcp, &poll, &mut clients, Transport::Tcp)?,
                WS_TAG => {
                    if let Some(ws) = ws {
                        accept(ws, &poll, &mut clients, Transport::Upgrading)?;
                    }
                }
                tag => {
                    let slot = usize::try_from(tag).unwrap_or(usize::MAX);
                    if flags.contains(EventFlags::OUT) {
                        clients.flush(slot);
                    }
                    if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                        clients.read(slot);
                    }
                }
            }
        }
    }
}

fn listen(port: u16) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Accepts all that wait. A full table of files leaves the rest in the backlog.
fn accept(
    listener: &OwnedFd,
    poll: &OwnedFd,
    clients: &mut Clients<'_>,
    transport: Transport,
) -> Result<(), Errno> {
    loop {
        match net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => {
                sockopt::set_tcp_nodelay(&socket, true)?;
                let tag = u64::try_from(socket.as_raw_fd()).unwrap_or(WS_TAG);
                epoll::add(poll, &socket, EventData::new_u64(tag), EventFlags::IN)?;
                clients.insert(socket, transport);
            }
            Err(Errno::AGAIN | Errno::MFILE | Errno::NFILE) => return Ok(()),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => return Err(error),
        }
    }
}
