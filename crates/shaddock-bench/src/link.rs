//! One socket: converts bytes to packages and back, through TLS and WebSocket frames if the target has them.
//!
//! Output is collected and sent by [`Link::flush`], so that the output of one iteration is one write. Input is read with [`Link::fill`],
//! and taken package by package with [`Link::next_package`].

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::Shutdown,
    sync::Arc,
};

use bytes::{Buf as _, Bytes, BytesMut};
use mio::{Interest, Registry, Token, event::Source as _, net::TcpStream};
use rustls::ClientConnection;
use shaddock_protocol::{MAX_BODY, Package, PackageError, PackageReader};

use crate::{
    target::{Target, Tls},
    ws::{self, Frame, WsError},
};

/// Receive buffer of a session that never reads, and its largest segment: values of a distant phone, not of loopback.
const STALLED_RECEIVE_BUFFER: usize = 4096;
const STALLED_SEGMENT: u32 = 1400;

/// Why a link failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("WebSocket: {0}")]
    Ws(#[from] WsError),
    #[error("{0}{hint}", hint = tls_hint(.0))]
    Package(#[from] PackageError),
}

/// A TLS server responds to plain bytes with an alert, whose first byte is 21.
fn tls_hint(error: &PackageError) -> &'static str {
    match error {
        PackageError::UnknownType(21) => " (if the server speaks TLS: tls:// or wss://)",
        _ => "",
    }
}

/// The result of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// The socket has returned all its data, but perhaps not its end.
    Drained,
    /// The socket had no data.
    Empty,
    /// There may be more.
    More,
    /// The server has closed.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// Consecutive packages.
    Plain,
    /// The response to the upgrade is pending.
    Upgrading,
    /// Packages in frames.
    Frames,
}

/// One socket to the server.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    framing: Framing,
    /// Bytes of the stream that were not consumed; the beginning of a frame, between two reads.
    raw: Bytes,
    /// Bytes of packages that were not consumed.
    inbox: Bytes,
    packages: PackageReader,
    /// Unwritten output.
    out: BytesMut,
    connected: bool,
    closed_by_frame: bool,
}

impl Link {
    /// Starts to connect. The socket reports to `token`.
    pub(crate) fn connect(
        target: &Target,
        registry: &Registry,
        token: Token,
        stalled: bool,
    ) -> Result<Self, LinkError> {
        let mut stream = if stalled {
            connect_narrow(target)?
        } else {
            TcpStream::connect(target.address)?
        };
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let tls = target
            .tls
            .as_ref()
            .map(start_tls)
            .transpose()?
            .map(Box::new);
        let mut out = BytesMut::new();
        let framing = if let Some(request) = &target.upgrade {
            out.extend_from_slice(request.as_bytes());
            Framing::Upgrading
        } else {
            Framing::Plain
        };
        Ok(Self {
            stream,
            tls,
            framing,
            raw: Bytes::new(),
            inbox: Bytes::new(),
            packages: PackageReader::new(),
            out,
            connected: false,
            closed_by_frame: false,
        })
    }

    /// Whether [`Link::check_connected`] has found the connection established.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether the connection is established. An error means that it has failed.
    pub(crate) fn check_connected(&mut self) -> Result<bool, LinkError> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error.into());
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                self.stream.set_nodelay(true)?;
                self.connected = true;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether packages can be sent: always, except for a WebSocket that waits for its upgrade.
    pub(crate) fn is_open(&self) -> bool {
        self.framing != Framing::Upgrading
    }

    /// Adds a package to what [`Link::flush`] writes.
    pub(crate) fn send(&mut self, package: &[u8]) {
        if self.framing == Framing::Plain {
            self.out.extend_from_slice(package);
        } else {
            ws::put_package(package, &mut self.out);
        }
    }

    /// Writes queued output, as far as the socket accepts it.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        let Self {
            stream, tls, out, ..
        } = self;
        if let Some(tls) = tls {
            if !out.is_empty() {
                tls.writer().write_all(out)?;
                out.clear();
            }
            while tls.wants_write() {
                match tls.write_tls(stream) {
                    Ok(_) => {}
                    Err(error) if is_later(&error) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            return Ok(());
        }
        while !out.is_empty() {
            match stream.write(out) {
                Ok(written) => out.advance(written),
                Err(error) if is_later(&error) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads once, through `buffer`.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<Filled, LinkError> {
        if self.tls.is_some() {
            return self.fill_tls(buffer);
        }
        match self.stream.read(buffer) {
            Ok(0) => Ok(Filled::End),
            Ok(length) => {
                self.receive(&buffer[..length]);
                // A short read of a stream socket has drained it (epoll(7)).
                Ok(if length < buffer.len() {
                    Filled::Drained
                } else {
                    Filled::More
                })
            }
            Err(error) if is_later(&error) => Ok(Filled::Empty),
            Err(error) => Err(error.into()),
        }
    }

    fn fill_tls(&mut self, buffer: &mut [u8]) -> Result<Filled, LinkError> {
        let Some(tls) = &mut self.tls else {
            return Ok(Filled::Drained);
        };
        let mut filled = match tls.read_tls(&mut self.stream) {
            Ok(0) => Filled::End,
            Ok(_) => Filled::More,
            Err(error) if is_later(&error) => Filled::Empty,
            Err(error) => return Err(error.into()),
        };
        tls.process_new_packets()?;
        let mut plain = Vec::new();
        loop {
            match tls.reader().read(buffer) {
                Ok(0) => {
                    filled = Filled::End;
                    break;
                }
                Ok(length) => plain.extend_from_slice(&buffer[..length]),
                Err(error) if is_later(&error) => break,
                // Closed without a goodbye.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    filled = Filled::End;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.receive(&plain);
        Ok(filled)
    }

    fn receive(&mut self, bytes: &[u8]) {
        if self.framing == Framing::Plain {
            debug_assert!(self.inbox.is_empty(), "packages are taken after each read");
            self.inbox = Bytes::copy_from_slice(bytes);
        } else if self.raw.is_empty() {
            self.raw = Bytes::copy_from_slice(bytes);
        } else {
            self.raw = [&self.raw[..], bytes].concat().into();
        }
    }

    /// The next complete package of the input.
    pub(crate) fn next_package(&mut self) -> Result<Option<Package>, LinkError> {
        if self.framing == Framing::Upgrading {
            if !ws::take_upgrade(&mut self.raw)? {
                return Ok(None);
            }
            self.framing = Framing::Frames;
        }
        loop {
            if !self.inbox.is_empty()
                && let Some(package) = self.packages.next(&mut self.inbox, MAX_BODY)?
            {
                return Ok(Some(package));
            }
            if self.framing == Framing::Plain || self.raw.is_empty() {
                return Ok(None);
            }
            match ws::take_frame(&mut self.raw)? {
                None => return Ok(None),
                Some(Frame::Data(payload)) => self.inbox = payload,
                Some(Frame::Ping(payload)) => ws::put_pong(&payload, &mut self.out),
                Some(Frame::Pong) => {}
                Some(Frame::Close) => self.closed_by_frame = true,
            }
        }
    }

    /// Whether a WebSocket server has sent a close frame.
    pub(crate) fn is_closed_by_frame(&self) -> bool {
        self.closed_by_frame
    }

    /// Sends a goodbye: nothing is sent afterwards, input is still read.
    pub(crate) fn finish(&mut self) -> Result<(), LinkError> {
        if self.framing == Framing::Frames && !self.closed_by_frame {
            ws::put_close(&mut self.out);
        }
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(&self.out)?;
            self.out.clear();
            tls.send_close_notify();
        }
        self.flush()?;
        match self.stream.shutdown(Shutdown::Write) {
            Err(error) if error.kind() != ErrorKind::NotConnected => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Deregisters the socket, which is never read again.
    pub(crate) fn abandon(&mut self, registry: &Registry) -> Result<(), LinkError> {
        self.stream.deregister(registry).map_err(LinkError::from)
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn start_tls(tls: &Tls) -> Result<ClientConnection, rustls::Error> {
    let mut connection = ClientConnection::new(Arc::clone(&tls.config), tls.name.clone())?;
    connection.set_buffer_limit(None);
    Ok(connection)
}

/// A connection with small buffers, for a session that never reads.
fn connect_narrow(target: &Target) -> io::Result<TcpStream> {
    let domain = socket2::Domain::for_address(target.address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(STALLED_RECEIVE_BUFFER)?;
    #[cfg(unix)]
    socket.set_tcp_mss(STALLED_SEGMENT)?;
    match socket.connect(&target.address.into()) {
        Ok(()) => {}
        #[cfg(unix)]
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) if is_later(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}
