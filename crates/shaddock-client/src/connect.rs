//! From an address to a socket with a complete handshake: for the first connection of a client, and for those that resume its session.

use bytes::Bytes;
use shaddock_protocol::{PackageReader, PackageType};
use tokio::net::TcpStream;

use crate::address::Address;
use crate::handshake::{Agreed, answer, request};
use crate::resume::ResumeRequest;
use crate::settings::Settings;
use crate::transport::{BoxIo, Event, Stream, Transport, WebSocket};
use crate::{CloseKind, ConnectError};

/// A connection whose handshake response was received, before the ACK.
pub(crate) struct Greeted {
    pub(crate) transport: Transport,
    pub(crate) reader: PackageReader,
    pub(crate) input: Bytes,
    pub(crate) agreed: Agreed,
}

/// Opens a socket to `address`, and performs the handshake on it.
pub(crate) async fn greet(
    settings: &Settings,
    address: &str,
    asked: Option<ResumeRequest>,
) -> Result<Greeted, ConnectError> {
    let transport = open(settings, &Address::parse(address)?).await?;
    handshake(settings, transport, asked).await
}

async fn open(settings: &Settings, address: &Address) -> Result<Transport, ConnectError> {
    let socket = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(ConnectError::Io)?;
    // Requests are short and their callers wait for them.
    socket.set_nodelay(true).map_err(ConnectError::Io)?;
    let io: BoxIo = if address.tls {
        settings.tls.connect(&address.host, socket).await?
    } else {
        Box::new(socket)
    };
    if !address.websocket {
        return Ok(Transport::Stream(Stream::new(io)));
    }
    let limit = settings.max_package_size;
    let websocket = WebSocket::connect(&address.uri, io, limit).await?;
    Ok(Transport::WebSocket(Box::new(websocket)))
}

/// Sends the handshake and reads the response.
pub(crate) async fn handshake(
    settings: &Settings,
    mut transport: Transport,
    asked: Option<ResumeRequest>,
) -> Result<Greeted, ConnectError> {
    transport.queue(request(settings, asked.as_ref())?);
    let mut reader = PackageReader::new();
    let mut input = Bytes::new();
    let body = read_answer(&mut transport, &mut reader, &mut input, settings).await?;
    let agreed = answer(settings, &body)?;
    Ok(Greeted {
        transport,
        reader,
        input,
        agreed,
    })
}

/// Waits for the body of the response.
async fn read_answer(
    transport: &mut Transport,
    reader: &mut PackageReader,
    input: &mut Bytes,
    settings: &Settings,
) -> Result<Bytes, ConnectError> {
    // A server that rejects the handshake may have closed before it has read: its response counts, not the failed write.
    let mut broken = None;
    loop {
        let protocol = |error| ConnectError::Closed(CloseKind::Protocol(error));
        while let Some(package) = reader
            .next(input, settings.max_package_size)
            .map_err(|error| protocol(error.into()))?
        {
            match package.kind {
                PackageType::Handshake => return Ok(package.body),
                PackageType::Kick => {
                    return Err(ConnectError::Closed(CloseKind::kicked(&package.body)));
                }
                // Pitaya's heartbeats begin before the handshake ends; other packages are too early to have an effect.
                _ => {}
            }
        }
        match transport.event().await {
            Ok(Event::Bytes(bytes)) => *input = bytes,
            Ok(Event::Room) => {}
            Ok(Event::WriteFailed(kind)) => broken = Some(kind),
            Ok(Event::End(status)) => {
                return Err(ConnectError::Closed(CloseKind::ServerClosed(status)));
            }
            Err(kind) => return Err(ConnectError::Closed(broken.unwrap_or(kind))),
        }
    }
}
