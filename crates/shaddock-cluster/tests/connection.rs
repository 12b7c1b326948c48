//! Which threads work for a server whose connection is served on a runtime of its own.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use shaddock_cluster::{
    BoxFuture, Cluster, Context, ForwardedRequest, JoinOptions, Membership, Node, RemoteCall,
    RemoteError, ServerInfo,
};
use support::servers::Backing;
use support::until;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Answers with the threads that a call saw: of its first step, and of the one after a wait.
struct Threads;

fn thread() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

impl Node for Threads {
    fn serve_request(
        self: Arc<Self>,
        _request: ForwardedRequest,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        Box::pin(async { Ok(Bytes::new()) })
    }

    fn serve_call(
        self: Arc<Self>,
        _call: RemoteCall,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        Box::pin(async {
            let first = thread();
            tokio::task::yield_now().await;
            Ok(format!("{first} {}", thread()).into())
        })
    }
}

/// A runtime on a thread with this name, until the sender is dropped.
fn runtime(name: &str) -> (Handle, oneshot::Sender<()>) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(stopped))
        .unwrap();
    (handle, stop)
}

async fn join(cluster: &dyn Cluster, id: &str, options: JoinOptions) -> Arc<dyn Membership> {
    let info = ServerInfo::new(id, id, false).unwrap();
    cluster
        .join(info, options, Arc::new(Threads))
        .await
        .unwrap()
}

#[tokio::test]
async fn messages_are_read_there_and_work_goes_on_at_home() {
    let backing = Backing::start();
    let cluster = backing.cluster();
    let (elsewhere, stop) = runtime("elsewhere");
    let home = thread();
    let near = join(&cluster, "near", JoinOptions::new()).await;
    let far = join(&cluster, "far", JoinOptions::new().connection_on(elsewhere)).await;
    until("each other", || {
        near.members().has_type("far") && far.members().has_type("near")
    })
    .await;

    let ask = async |from: &Arc<dyn Membership>, to: &Arc<dyn Membership>| {
        let call = RemoteCall {
            route: format!("{}.where.are", to.info().id).into(),
            body: Bytes::new(),
            from: None,
            context: Context::new(),
        };
        let answer = from.call(to.info(), call).await.unwrap();
        String::from_utf8(answer.to_vec()).unwrap()
    };
    // A route begins at home until it has shown that it is quick, and then where messages are read.
    for (from, to, read_at) in [(&near, &far, "elsewhere"), (&far, &near, "shaddock-link")] {
        assert_eq!(ask(from, to).await, format!("{home} {home}"));
        let start = std::time::Instant::now();
        while ask(from, to).await != format!("{read_at} {home}") {
            assert!(
                start.elapsed() < support::wait::PATIENCE * 2,
                "never at {read_at}"
            );
        }
    }

    far.leave().await;
    drop(stop);
    until("gone", || !near.members().has_type("far")).await;
    near.leave().await;
}
