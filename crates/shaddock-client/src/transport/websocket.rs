//! Packages in WebSocket messages: this client sends one per message, servers one or more.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, error::ProtocolError};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{BoxIo, Event, closed};
use crate::{CloseKind, CloseStatus, ConnectError, Violation};

/// A message may contain several packages: it may exceed the longest package by this length.
const BATCH: usize = 1024 * 1024;

/// Instead of tungstenite's 128 KiB, which every connection would own permanently.
const READ_BUFFER: usize = 8 * 1024;

pub(crate) struct WebSocket {
    socket: WebSocketStream<BoxIo>,
    queue: VecDeque<Bytes>,
    /// Bytes in `queue`, and bytes that the socket has accepted since the last flush.
    queued: usize,
}

impl WebSocket {
    /// Requests an upgrade from the server.
    pub(crate) async fn connect(
        uri: &Uri,
        io: BoxIo,
        max_package: usize,
    ) -> Result<Self, ConnectError> {
        let limit = Some(max_package.saturating_add(BATCH));
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(limit)
            .max_frame_size(limit);
        match client_async_with_config(uri, io, Some(config)).await {
            Ok((socket, _response)) => Ok(Self {
                socket,
                queue: VecDeque::new(),
                queued: 0,
            }),
            Err(Error::Io(error)) => Err(ConnectError::Io(error)),
            Err(Error::Http(response)) => Err(ConnectError::Upgrade(response.status().to_string())),
            Err(error) => Err(ConnectError::Upgrade(error.to_string())),
        }
    }

    pub(super) fn queue(&mut self, package: Bytes) {
        self.queued += package.len();
        self.queue.push_back(package);
    }

    pub(super) const fn queued(&self) -> usize {
        self.queued
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseKind>> {
        let result = ready!(self.poll_write(cx));
        self.queue = VecDeque::new();
        self.queued = 0;
        Poll::Ready(result.map_err(|error| kind_of(&error)))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.queue.is_empty() {
            ready!(self.socket.poll_ready_unpin(cx))?;
            if let Some(package) = self.queue.pop_front() {
                self.socket.start_send_unpin(Message::Binary(package))?;
            }
        }
        self.socket.poll_flush_unpin(cx)
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, CloseKind>> {
        loop {
            return Poll::Ready(match ready!(self.socket.poll_next_unpin(cx)) {
                None => Ok(Event::End(None)),
                Some(Ok(Message::Binary(bytes))) => Ok(Event::Bytes(bytes)),
                Some(Ok(Message::Text(text))) => Ok(Event::Bytes(text.into())),
                Some(Ok(Message::Close(frame))) => Ok(Event::End(frame.as_ref().and_then(status))),
                // Pings are answered by tungstenite.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(error)) => match kind_of(&error) {
                    CloseKind::ServerClosed(status) => Ok(Event::End(status)),
                    kind => Err(kind),
                },
            });
        }
    }

    /// Sends the close frame and waits for the server's.
    pub(super) async fn shutdown(&mut self) -> Result<(), CloseKind> {
        self.socket
            .close(None)
            .await
            .map_err(|error| kind_of(&error))?;
        while let Some(Ok(_)) = self.socket.next().await {}
        Ok(())
    }
}

fn status(frame: &CloseFrame) -> Option<CloseStatus> {
    // 1000 without a text contains no information.
    let code = u16::from(frame.code);
    (code != 1000 || !frame.reason.is_empty()).then(|| CloseStatus {
        code,
        reason: frame.reason.as_str().to_owned(),
    })
}

fn kind_of(error: &Error) -> CloseKind {
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(
            ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing,
        ) => CloseKind::ServerClosed(None),
        Error::Io(error) => closed(error),
        other => CloseKind::Protocol(Violation::WebSocket(other.to_string())),
    }
}
