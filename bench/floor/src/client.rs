//! The sockets, and what is cut short on them.
//!
//! An idle client is one entry of 16 bytes in a table that is indexed by its file descriptor. It has memory of its own only
//! while a package is cut short or its socket is full.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::{self, Errno},
};

use crate::{
    wire::{self, Verdict},
    ws,
};

/// Bytes that one call reads.
const READ_SIZE: usize = 64 * 1024;
/// Bytes kept for a client that does not read; over it the client is closed.
const UNSENT_MAX: usize = 256 * 1024;

/// How the bytes of a client are framed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Packages back to back.
    Tcp,
    /// A WebSocket client that has not sent its whole upgrade request yet.
    Upgrading,
    /// Packages in WebSocket frames.
    WebSocket,
}

struct Client {
    socket: OwnedFd,
    transport: Transport,
    /// Gets the pushes.
    bound: bool,
    kept: Option<Box<Kept>>,
}

/// Bytes that wait: for the rest of their package, or for room in the socket.
#[derive(Default)]
struct Kept {
    unread: Vec<u8>,
    unsent: Vec<u8>,
}

/// All clients, and the buffers that they share.
pub(crate) struct Clients<'a> {
    poll: &'a OwnedFd,
    table: Vec<Option<Client>>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl<'a> Clients<'a> {
    pub(crate) fn new(poll: &'a OwnedFd) -> Self {
        Self {
            poll,
            table: Vec::new(),
            input: vec![0; READ_SIZE],
            output: Vec::new(),
        }
    }

    pub(crate) fn insert(&mut self, socket: OwnedFd, transport: Transport) {
        let Ok(slot) = usize::try_from(socket.as_raw_fd()) else {
            return;
        };
        if slot >= self.table.len() {
            self.table.resize_with(slot + 1, || None);
        }
        self.table[slot] = Some(Client {
            socket,
            transport,
            bound: false,
            kept: None,
        });
    }

    /// Reads once, answers everything that is complete with one write.
    pub(crate) fn read(&mut self, slot: usize) {
        let Some(Some(client)) = self.table.get_mut(slot) else {
            return;
        };
        let mut input = std::mem::take(&mut self.input);
        let length = match io::read(&client.socket, &mut input[..]) {
            Ok(0) => None,
            Ok(length) => Some(length),
            Err(Errno::AGAIN | Errno::INTR) => Some(0),
            Err(_) => None,
        };
        match length {
            None => self.table[slot] = None,
            Some(length) => self.answer(slot, &mut input[..length]),
        }
        self.input = input;
    }

    fn answer(&mut self, slot: usize, fresh: &mut [u8]) {
        let Some(Some(client)) = self.table.get_mut(slot) else {
            return;
        };
        let mut output = std::mem::take(&mut self.output);
        output.clear();
        let mut joined = match &mut client.kept {
            Some(kept) if !kept.unread.is_empty() => std::mem::take(&mut kept.unread),
            _ => Vec::new(),
        };
        let data = if joined.is_empty() {
            fresh
        } else {
            joined.extend_from_slice(fresh);
            &mut joined[..]
        };
        let mut requests = wire::Requests {
            bind: false,
            pushes: Vec::new(),
        };
        let taken = match client.transport {
            Transport::Tcp => wire::answer_all(data, &mut output, &mut requests),
            Transport::Upgrading => ws::upgrade(data, &mut output).inspect(|&taken| {
                if taken > 0 {
                    client.transport = Transport::WebSocket;
                }
            }),
            Transport::WebSocket => ws::answer_all(data, &mut output, &mut requests),
        };
        match taken {
            Err(Verdict::Close) => self.table[slot] = None,
            Ok(taken) => {
                client.bound |= requests.bind;
                if taken < data.len() {
                    let rest = data[taken..].to_vec();
                    client.kept.get_or_insert_default().unread = rest;
                }
                for body in &requests.pushes {
                    self.push_to_all(body);
                }
                self.send(slot, &output);
                self.drop_empty_kept(slot);
            }
        }
        self.output = output;
    }

    /// Writes one push to every bound client; the package is built once for each framing.
    fn push_to_all(&mut self, body: &[u8]) {
        let mut package = Vec::new();
        wire::put_push(body, &mut package);
        let mut frame = Vec::new();
        ws::put_frame(ws::BINARY, &package, &mut frame);
        for slot in 0..self.table.len() {
            if let Some(client) = &self.table[slot]
                && client.bound
            {
                let bytes = if client.transport == Transport::Tcp {
                    &package
                } else {
                    &frame
                };
                self.send(slot, bytes);
            }
        }
    }

    fn send(&mut self, slot: usize, bytes: &[u8]) {
        let Some(Some(client)) = self.table.get_mut(slot) else {
            return;
        };
        if bytes.is_empty() {
            return;
        }
        let waiting = client
            .kept
            .as_ref()
            .is_some_and(|kept| !kept.unsent.is_empty());
        let sent = if waiting {
            0
        } else {
            match io::write(&client.socket, bytes) {
                Ok(sent) => sent,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(_) => return self.table[slot] = None,
            }
        };
        if sent == bytes.len() {
            return;
        }
        let unsent = &mut client.kept.get_or_insert_default().unsent;
        unsent.extend_from_slice(&bytes[sent..]);
        let full = unsent.len() > UNSENT_MAX;
        if full || (!waiting && !self.watch(slot, EventFlags::IN | EventFlags::OUT)) {
            self.table[slot] = None;
        }
    }

    /// Writes what waited for room in the socket.
    pub(crate) fn flush(&mut self, slot: usize) {
        let Some(Some(client)) = self.table.get_mut(slot) else {
            return;
        };
        let Some(kept) = &mut client.kept else { return };
        match io::write(&client.socket, &kept.unsent) {
            Ok(sent) => drop(kept.unsent.drain(..sent)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return self.table[slot] = None,
        }
        if kept.unsent.is_empty() {
            if self.watch(slot, EventFlags::IN) {
                self.drop_empty_kept(slot);
            } else {
                self.table[slot] = None;
            }
        }
    }

    fn watch(&self, slot: usize, flags: EventFlags) -> bool {
        let Some(Some(client)) = self.table.get(slot) else {
            return false;
        };
        epoll::modify(
            self.poll,
            &client.socket,
            EventData::new_u64(slot as u64),
            flags,
        )
        .is_ok()
    }

    fn drop_empty_kept(&mut self, slot: usize) {
        if let Some(Some(client)) = self.table.get_mut(slot)
            && client
                .kept
                .as_ref()
                .is_some_and(|k| k.unread.is_empty() && k.unsent.is_empty())
        {
            client.kept = None;
        }
    }
}
