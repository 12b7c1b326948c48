//! A plain TCP load balancer: each connection goes to the next backend that answers.
#![allow(dead_code, unreachable_pub, clippy::missing_panics_doc)]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

pub struct Balancer {
    /// Where clients connect.
    pub address: String,
    backends: Arc<Mutex<Vec<SocketAddr>>>,
    connections: Arc<AtomicUsize>,
}

impl Balancer {
    /// Runs until the runtime ends. Each connection takes two descriptors of this process.
    pub async fn to(backends: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let balancer = Self {
            address: format!("tcp://{}", listener.local_addr().unwrap()),
            backends: Arc::new(Mutex::new(backends.to_vec())),
            connections: Arc::default(),
        };
        let (all, turn) = (
            Arc::clone(&balancer.backends),
            Arc::clone(&balancer.connections),
        );
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let now = all.lock().unwrap().clone();
                let first = turn.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(carry(client, now, first));
            }
        });
        balancer
    }

    /// Where connections go from now on.
    pub fn set(&self, backends: &[SocketAddr]) {
        *self.backends.lock().unwrap() = backends.to_vec();
    }

    /// How many connections have come.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn carry(mut client: TcpStream, backends: Vec<SocketAddr>, first: usize) {
    for n in 0..backends.len() {
        let backend = backends[(first + n) % backends.len()];
        if let Ok(mut backend) = TcpStream::connect(backend).await {
            let _ = client.set_nodelay(true);
            let _ = backend.set_nodelay(true);
            let _ = copy_bidirectional(&mut client, &mut backend).await;
            return;
        }
    }
}
