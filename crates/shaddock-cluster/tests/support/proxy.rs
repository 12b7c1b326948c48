//! A TCP proxy that can stop forwarding: connections stay open and nothing arrives, as in a partition of a network; or break them.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Cut,
    Severed,
}

pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(watch::Sender::new(State::Open));
        let states = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut state = states.subscribe();
                let mut severed = states.subscribe();
                tokio::spawn(async move {
                    let pass = async {
                        // While it is cut even a new connection is only accepted.
                        let _ = state.wait_for(|state| *state == State::Open).await;
                        let Ok(server) = TcpStream::connect(target).await else {
                            return;
                        };
                        let (client_in, client_out) = client.into_split();
                        let (server_in, server_out) = server.into_split();
                        tokio::join!(
                            forward(client_in, server_out, state.clone()),
                            forward(server_in, client_out, state.clone())
                        );
                    };
                    tokio::select! {
                        () = pass => {}
                        _ = severed.wait_for(|state| *state == State::Severed) => {}
                    }
                });
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    /// Nothing goes through any more.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Connections break, and new ones too.
    pub fn sever(&self) {
        self.state.send_replace(State::Severed);
    }

    /// Forwards the messages that were held back, and everything after them.
    pub fn heal(&self) {
        self.state.send_replace(State::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let open = state.wait_for(|state| *state == State::Open).await.is_ok();
        if !open || to.write_all(&buffer[..n]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
