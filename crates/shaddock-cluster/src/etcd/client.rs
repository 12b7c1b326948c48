//! The few operations of etcd that are used, over gRPC, each within a bound of time.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, IntoStreamingRequest, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::pb::{
    AuthenticateRequest, AuthenticateResponse, Done, LeaseGrantRequest, LeaseRequest,
    LeaseResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, RangeRequest,
    RangeResponse, RequestOp, StatusRequest, StatusResponse, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest, WatchResponse, prefix_end,
};
use super::unreachable;
use crate::nats::{NatsConfig, TlsFiles};
use crate::{ClusterError, Secret, ServerInfo};
use parking_lot::Mutex;

/// A list of many servers is larger than gRPC's default bound of 4 MiB.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// A connection to etcd, made when it is needed. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Etcd {
    channel: Channel,
    timeout: Duration,
    prefix: Arc<str>,
    user: Option<(String, Secret)>,
    token: Arc<Mutex<Option<MetadataValue<Ascii>>>>,
}

/// The error of an operation: that of etcd, or a timeout.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum EtcdError {
    #[error("etcd does not respond")]
    Silent,
    #[error("etcd: {}", said(.0))]
    Failed(Box<Status>),
    #[error("etcd: {0}")]
    Odd(&'static str),
}

/// The message; and the first cause, which says what happened to a connection.
fn said(status: &Status) -> String {
    let causes = std::iter::successors(status.source(), |&cause| cause.source());
    let first = causes.last().map(ToString::to_string);
    match first.filter(|first| !status.message().contains(first)) {
        Some(first) => format!("{}: {first}", status.message()),
        None => status.message().to_owned(),
    }
}

impl EtcdError {
    /// The lease of the value to write no longer exists.
    pub(crate) fn is_no_lease(&self) -> bool {
        matches!(self, Self::Failed(status) if status.message().contains("requested lease not found"))
    }

    /// etcd has reached its quota, and writes nothing any more.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Failed(status) if status.message().contains("database space exceeded"))
    }
}

impl From<Status> for EtcdError {
    fn from(status: Status) -> Self {
        Self::Failed(Box::new(status))
    }
}

pub(crate) type EtcdResult<T> = Result<T, EtcdError>;

/// A stream of questions and one of answers.
pub(crate) struct Exchange<Q, A> {
    pub(crate) ask: mpsc::Sender<Q>,
    pub(crate) answers: Streaming<A>,
}

impl Etcd {
    /// Connects lazily: an endpoint that is not there shows in the first operation.
    pub(crate) fn new(config: &NatsConfig) -> Result<Self, ClusterError> {
        // A dead link is noticed while nothing is asked, as in the watch: well within the life of a lease.
        let alive =
            (config.lease_ttl / 6).clamp(Duration::from_millis(500), Duration::from_secs(5));
        let mut endpoints = Vec::new();
        for address in &config.etcd_endpoints {
            let address = address.expose();
            let uri = if address.contains("://") {
                address.to_owned()
            } else if config.etcd_tls.is_wanted() {
                format!("https://{address}")
            } else {
                format!("http://{address}")
            };
            let with_tls = uri.starts_with("https://");
            let mut endpoint = Endpoint::from_shared(uri).map_err(|e| unreachable(config, &e))?;
            if with_tls {
                endpoint = endpoint
                    .tls_config(tls(&config.etcd_tls)?)
                    .map_err(|e| unreachable(config, &e))?;
            }
            endpoints.push(
                endpoint
                    .connect_timeout(config.etcd_timeout)
                    .http2_keep_alive_interval(alive)
                    .keep_alive_timeout(alive)
                    .keep_alive_while_idle(true),
            );
        }
        Ok(Self {
            channel: Channel::balance_list(endpoints.into_iter()),
            timeout: config.etcd_timeout,
            prefix: config.etcd_prefix.as_str().into(),
            user: config.etcd_user.clone(),
            token: Arc::default(),
        })
    }

    /// `<prefix>servers/`, under which servers are listed.
    pub(crate) fn servers_key(&self) -> String {
        format!("{}servers/", self.prefix)
    }

    pub(crate) fn server_key(&self, info: &ServerInfo) -> String {
        format!("{}servers/{}/{}", self.prefix, info.server_type, info.id)
    }

    /// Where the owner of a user is written.
    pub(crate) fn binding_key(&self, frontend_type: &str, uid: &str) -> String {
        crate::uid::key(&self.prefix, frontend_type, uid)
    }

    /// The holder of an id, for servers of all types: the life of its server.
    pub(crate) fn id_key(&self, id: &str) -> String {
        format!("{}shaddock/ids/{id}", self.prefix)
    }

    /// Where others leave notices for a frontend that NATS does not reach; the users they are about are below it.
    pub(crate) fn asks_key(&self, owner: &str) -> String {
        format!("{}shaddock/asks/{owner}/", self.prefix)
    }

    /// Since when this etcd remembers.
    pub(crate) fn era_key(&self) -> String {
        format!("{}shaddock/era", self.prefix)
    }

    /// Counts starts of frontends: each call has a number of its own, the next one. `server` is the value of the key, for operators.
    pub(crate) async fn count_start(&self, server: &str) -> EtcdResult<i64> {
        // Not under `servers/`, where Pitaya's servers look.
        let key = format!("{}shaddock/starts", self.prefix);
        let counted = TxnRequest {
            success: vec![RequestOp::put(&key, server, 0), RequestOp::get(&key)],
            ..TxnRequest::default()
        };
        let answer = self.txn(counted).await?;
        let seen = answer.responses.into_iter().find_map(|op| op.range);
        let written = seen.and_then(|range| range.kvs.into_iter().next());
        written.map(|kv| kv.version).ok_or(EtcdError::Odd(
            "the key that was just written does not exist",
        ))
    }

    /// Where a group of Pitaya is written; its members are below it.
    pub(crate) fn group_key(&self, group: &str) -> String {
        format!("{}groups/{group}", self.prefix)
    }

    pub(crate) async fn get(&self, key: &str) -> EtcdResult<RangeResponse> {
        let range = RangeRequest {
            key: key.to_owned().into(),
            ..RangeRequest::default()
        };
        self.unary("/etcdserverpb.KV/Range", range).await
    }

    pub(crate) async fn get_prefix(&self, prefix: &str) -> EtcdResult<RangeResponse> {
        let range = RangeRequest {
            key: prefix.to_owned().into(),
            range_end: prefix_end(prefix),
            ..RangeRequest::default()
        };
        self.unary("/etcdserverpb.KV/Range", range).await
    }

    /// How many keys have a prefix.
    pub(crate) async fn count_prefix(&self, prefix: &str) -> EtcdResult<usize> {
        let range = RangeRequest {
            key: prefix.to_owned().into(),
            range_end: prefix_end(prefix),
            keys_only: false,
            count_only: true,
        };
        let answer: RangeResponse = self.unary("/etcdserverpb.KV/Range", range).await?;
        Ok(usize::try_from(answer.count).unwrap_or(0))
    }

    pub(crate) async fn put(&self, key: String, value: String, lease: i64) -> EtcdResult<()> {
        let put = PutRequest {
            key: key.into(),
            value: value.into(),
            lease,
        };
        let Done {} = self.unary("/etcdserverpb.KV/Put", put).await?;
        Ok(())
    }

    pub(crate) async fn txn(&self, txn: TxnRequest) -> EtcdResult<TxnResponse> {
        self.unary("/etcdserverpb.KV/Txn", txn).await
    }

    /// The status of the member that is asked.
    pub(crate) async fn status(&self) -> EtcdResult<StatusResponse> {
        self.unary("/etcdserverpb.Maintenance/Status", StatusRequest {})
            .await
    }

    pub(crate) async fn grant(&self, ttl: Duration) -> EtcdResult<i64> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let lease: LeaseResponse = self
            .unary("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest { ttl })
            .await?;
        Ok(lease.id)
    }

    pub(crate) async fn revoke(&self, id: i64) -> EtcdResult<()> {
        let Done {} = self
            .unary("/etcdserverpb.Lease/LeaseRevoke", LeaseRequest { id })
            .await?;
        Ok(())
    }

    /// Opens a stream to keep leases alive, and asks for one.
    pub(crate) async fn keep_alive(
        &self,
        id: i64,
    ) -> EtcdResult<Exchange<LeaseRequest, LeaseResponse>> {
        self.exchange("/etcdserverpb.Lease/LeaseKeepAlive", LeaseRequest { id })
            .await
    }

    /// Keeps a lease alive once. The time it has now is 0 if it has ended.
    pub(crate) async fn keep_alive_once(&self, id: i64) -> EtcdResult<i64> {
        let mut kept = self.keep_alive(id).await?;
        self.bounded(async {
            let answer = kept.answers.message().await?;
            Ok(answer.map_or(0, |answer| answer.ttl))
        })
        .await
    }

    /// How long a lease has, and what hangs on it.
    pub(crate) async fn lease_keys(&self, id: i64) -> EtcdResult<LeaseTimeToLiveResponse> {
        let question = LeaseTimeToLiveRequest { id, keys: true };
        self.unary("/etcdserverpb.Lease/LeaseTimeToLive", question)
            .await
    }

    /// Watches all keys with a prefix from a revision on.
    pub(crate) async fn watch(
        &self,
        prefix: &str,
        from: i64,
    ) -> EtcdResult<Exchange<WatchRequest, WatchResponse>> {
        let create = WatchCreateRequest {
            key: prefix.to_owned().into(),
            range_end: prefix_end(prefix),
            start_revision: from,
        };
        self.exchange(
            "/etcdserverpb.Watch/Watch",
            WatchRequest {
                create: Some(create),
            },
        )
        .await
    }

    async fn unary<Q, A>(&self, path: &'static str, question: Q) -> EtcdResult<A>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + 'static,
    {
        self.signed_in(|| self.try_unary(path, question.clone()))
            .await
    }

    /// Tries what etcd may refuse because the token is too old: then once more with a new one.
    async fn signed_in<A, F>(&self, mut attempt: impl FnMut() -> F) -> EtcdResult<A>
    where
        F: Future<Output = Result<A, Status>>,
    {
        self.bounded(async {
            match attempt().await {
                Err(status) if self.user.is_some() && is_auth(&status) => {
                    self.authenticate().await?;
                    attempt().await
                }
                result => result,
            }
        })
        .await
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        grpc.ready()
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
        Ok(grpc)
    }

    async fn try_unary<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let mut request = Request::new(question);
        self.sign(&mut request);
        let codec = ProstCodec::<Q, A>::default();
        Ok(grpc
            .unary(request, PathAndQuery::from_static(path), codec)
            .await?
            .into_inner())
    }

    async fn exchange<Q, A>(&self, path: &'static str, first: Q) -> EtcdResult<Exchange<Q, A>>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + 'static,
    {
        self.signed_in(|| self.try_exchange(path, first.clone()))
            .await
    }

    async fn try_exchange<Q, A>(
        &self,
        path: &'static str,
        first: Q,
    ) -> Result<Exchange<Q, A>, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let (ask, questions) = mpsc::channel(4);
        // There is room for four.
        let _ = ask.try_send(first);
        let mut request = ReceiverStream::new(questions).into_streaming_request();
        self.sign(&mut request);
        let codec = ProstCodec::<Q, A>::default();
        let answers = grpc
            .streaming(request, PathAndQuery::from_static(path), codec)
            .await?
            .into_inner();
        Ok(Exchange { ask, answers })
    }

    fn sign<T>(&self, request: &mut Request<T>) {
        // A member that has lost its cluster refuses instead of staying silent.
        request
            .metadata_mut()
            .insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &*self.token.lock() {
            request.metadata_mut().insert("token", token.clone());
        }
    }

    async fn authenticate(&self) -> Result<(), Status> {
        let Some((name, password)) = self.user.clone() else {
            return Ok(());
        };
        let password = password.expose().to_owned();
        let question = AuthenticateRequest { name, password };
        let answer: AuthenticateResponse = self
            .try_unary("/etcdserverpb.Auth/Authenticate", question)
            .await?;
        let token = answer
            .token
            .parse()
            .map_err(|_| Status::internal("the token is not ASCII"))?;
        *self.token.lock() = Some(token);
        Ok(())
    }

    async fn bounded<T>(
        &self,
        operation: impl Future<Output = Result<T, Status>>,
    ) -> EtcdResult<T> {
        match tokio::time::timeout(self.timeout, operation).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(EtcdError::Silent),
        }
    }
}

fn tls(files: &TlsFiles) -> Result<ClientTlsConfig, ClusterError> {
    let read = |key, path: &Path| {
        std::fs::read(path).map_err(|e| ClusterError::Setting {
            key,
            reason: format!("{}: {e}", path.display()),
        })
    };
    let mut tls = ClientTlsConfig::new();
    tls = match &files.ca {
        Some(ca) => tls.ca_certificate(Certificate::from_pem(read("etcd_ca", ca)?)),
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = &files.client {
        let certificate = read("etcd_certificate", certificate)?;
        tls = tls.identity(Identity::from_pem(certificate, read("etcd_key", key)?));
    }
    Ok(tls)
}

fn is_auth(status: &Status) -> bool {
    status.code() == Code::Unauthenticated || status.message().contains("user name is empty")
}
