//! All sections with their keys: documentation, type, default, range, and whether a change requires a restart.

use std::path::PathBuf;

use shaddock_cluster::{Address, Secret};
use shaddock_core::Conflict;
use shaddock_protocol::BrowserClients;

use super::{
    choices::{
        BalanceSetting, ClusterMode, CryptoSetting, DialectSetting, LogFormat, OnFullSetting,
        PomeloErrorsSetting, ProtocolSetting, RoutingSetting, Serializer, TracedUsersSetting,
    },
    rules::{
        address_header, address_or_empty, event_names, id_or_empty, lease, list_of_tokens,
        not_empty, origins, prefix, server_name, short_routes, some, token, tokens, url_or_empty,
        whole_seconds,
    },
    section::{section, within},
    value::{Network, SecretTexts, Size, Texts, Time},
};
use crate::logging::check_filter;

section! {
    /// The current process.
    pub struct ServerSettings in "server" {
        /// Server type of `shaddock serve`: the first part of the routes that it handles itself. (Programs set their type in code.)
        restart server_type: String = "connector".to_owned(), check |text: &String| server_name(text);
        /// Server id of `shaddock serve`, unique in the cluster. Empty: a new one at every start.
        restart id: String = String::new(), check |text: &String| id_or_empty(text);
        /// Threads that serve clients. 0: one per core.
        restart workers: u16 = 0, check within(0, 1024);
    }
}

section! {
    /// Logs on standard error. Programs of your own need the cargo feature `logs`.
    pub struct LogSettings in "log" {
        /// `auto` is `human` on a terminal and `json` elsewhere.
        restart format: LogFormat = LogFormat::Auto;
        /// The levels that are logged: `error`, `warn`, `info`, `debug`, `trace`, `off`, or levels by module, such as
        /// `info,shaddock_net=debug`.
        live filter: String = "info".to_owned(), check |text: &String| check_filter(text);
        /// Bytes of log lines that may wait while standard error is not read. Above this limit lines are dropped and counted; servers do
        /// not wait.
        restart queue_bytes: Size = Size::kib(1024), check within(Size::kib(16), Size(1 << 30));
    }
}

section! {
    /// The admin server: health checks, metrics and the API for operators. Programs of your own need the cargo feature `admin`.
    pub struct AdminSettings in "admin" {
        /// Address and port. Empty: no admin server. An address that is not a loopback address requires `token`.
        restart address: String = "127.0.0.1:3005".to_owned(), check |text: &String| address_or_empty(text);
        /// Callers send it as `Authorization: Bearer <token>`; at least 16 characters. It grants all permissions. Without any token, every
        /// process on this machine may call. `/healthz` and `/readyz` never require a token.
        live token: Secret = Secret::default(), check |text: &Secret| token(text.expose());
        /// More tokens with all permissions; together with `token` they allow tokens to be rotated.
        live operate_tokens: SecretTexts = SecretTexts::default(), check |list: &SecretTexts| list_of_tokens(list);
        /// Tokens that permit only pushes of the [server API](server-api.md).
        live push_tokens: SecretTexts = SecretTexts::default(), check |list: &SecretTexts| list_of_tokens(list);
        /// Tokens that permit only reading (metrics too) and counting. They cannot change anything.
        live read_tokens: SecretTexts = SecretTexts::default(), check |list: &SecretTexts| list_of_tokens(list);
        /// File that receives one line of JSON for each command of the server API: caller, command, counts, time. Empty: the lines are
        /// logged.
        restart audit: PathBuf = PathBuf::new();
        /// Whether the admin server serves the [console](console.md), a page for browsers, under `/console/`.
        restart console: bool = true;
        /// Session events (binds, unbinds, lost connections, returns, closes) that each frontend keeps for operators. Above this limit the
        /// oldest event is dropped. 0: no events are kept.
        restart kept_events: usize = 4096, check within(0, 1_000_000);
        /// Bytes of a request body. Longer bodies are rejected with 413.
        restart max_body: Size = Size::kib(64), check within(Size(1024), Size(16 << 20));
        /// Open connections. Above this limit the oldest one without a request is closed; if all have requests, new connections wait in the kernel.
        restart max_connections: usize = 64, check within(1, 10_000);
        /// Time limit for receiving the head of a request, also of the next request on the connection. The connection is closed when it
        /// expires.
        restart head_timeout: Time = Time::secs(5), check within(Time::millis(100), Time::secs(60));
        /// Time limit from the head of a request to its response, and for a connection without data in either direction. The connection is
        /// closed when it expires.
        restart idle_timeout: Time = Time::secs(30), check within(Time::secs(10), Time::secs(600));
        /// Time that a request about the whole cluster waits for other servers. Servers without a reply are named in the response.
        restart cluster_timeout: Time = Time::secs(3), check within(Time::millis(100), Time::secs(8));
        /// Servers that such a request queries at the same time. The others wait for their turn.
        restart cluster_calls: usize = 64, check within(1, 10_000);
    }
}

section! {
    /// Sessions of users.
    pub struct SessionSettings in "session" {
        /// Whether a user may have only one session.
        restart single_session: bool = false;
        /// With `single_session`: whether the second bind fails (`reject_new`, as in Pomelo) or closes the first session (`replace_old`).
        restart on_conflict: Conflict = Conflict::RejectNew;
        /// Bytes that may wait for a client whose socket is full. Above this limit the client is disconnected as too slow. Above a quarter
        /// of it, further requests of the client and handlers that await their pushes wait until the queued data was offered to the socket.
        restart outbox_bytes: Size = Size::kib(1024), check within(Size(4096), Size(1 << 30));
        /// Listeners on one session. Above this limit registration fails.
        restart max_listeners: usize = 64, check within(1, 1_000_000);
        /// Settings of one session. Above this limit adding a setting fails.
        restart max_settings: usize = 1024, check within(1, 1_000_000);
        /// Channels and topics that one user may join on this frontend. Above this limit a join fails.
        restart max_memberships: usize = 1024, check within(1, 1_000_000);
        /// Bytes of user data in a client's handshake that are kept with its session, in addition to the client's kind, version and
        /// platform. Longer data is not kept. 0: nothing of a handshake is kept.
        restart handshake_bytes: Size = Size(1024), check within(Size(0), Size::kib(64));
    }
}

section! {
    /// Sessions that outlive their connections, for clients that request them.
    pub struct ResumeSettings in "session.resume" {
        /// Whether clients that request a resumable session get one.
        restart enabled: bool = true;
        /// Time that a session waits for its client after its connection was lost. The session is closed when it expires.
        restart window: Time = Time::secs(60), check within(Time::secs(1), Time::secs(3600));
        /// Number of messages after which each side sends an acknowledgement.
        restart ack: usize = 32, check within(1, 255);
        /// Messages that a session keeps for its client until they are acknowledged. Above this limit the oldest is discarded, and a client
        /// that returns receives the number of missed messages.
        restart max_messages: usize = 256, check within(1, 65_536);
        /// Bytes of these messages. Above this limit as `max_messages`.
        restart max_bytes: Size = Size::kib(64), check within(Size(1024), Size(64 << 20));
        /// Bytes that all sessions of the server may keep in total. At this limit, a session that keeps another message discards its oldest
        /// ones.
        restart max_total_bytes: Size = Size::kib(256 * 1024), check within(Size(1 << 20), Size(1 << 40));
        /// Sessions that wait for their clients. Above this limit the session that has waited longest is closed.
        restart max_suspended: usize = 100_000, check within(1, 10_000_000);
        /// Policy above `max_messages` and `max_bytes`. `gap`: the oldest message is discarded. `wait`: senders that await their pushes
        /// wait for the client's acknowledgement, and up to twice as much is kept meanwhile; a push to many clients waits for the slowest
        /// of them.
        restart on_full: OnFullSetting = OnFullSetting::Gap;
        /// With `on_full = "wait"`: longest time that a sender that awaits its push waits. For pushes from another server, at most half of
        /// `cluster.push_timeout`.
        restart max_wait: Time = Time::secs(1), check within(Time::millis(10), Time::secs(60));
        /// Whether clients without TLS are refused resumable sessions. Behind a proxy that terminates TLS, all connections are without TLS.
        restart require_tls: bool = false;
        /// Address that returning clients try first, such as `wss://c1.example.com`: behind a load balancer, the address of this server
        /// itself. Empty: the address to which they connected first.
        restart address: String = String::new(), check |text: &String| url_or_empty(text);
        /// Whether a client that returns to this frontend gets its session if another frontend of the type holds it. The connection is then
        /// relayed until it ends.
        restart other_frontends: bool = true;
        /// Failed returns per minute from one address. Above this limit clients get a new session; their tokens are not checked.
        restart max_refused: usize = 60, check within(1, 4_000_000_000);
        /// Returns per minute from one address. Above this limit clients get a new session.
        restart max_returns: usize = 60_000, check within(1, 4_000_000_000);
    }
}

section! {
    /// The client protocol, and limits on the data of clients.
    pub struct ProtocolSettings in "protocol" {
        /// The clients that are accepted.
        restart dialect: DialectSetting = DialectSetting::Auto;
        /// Longest body of a package. If it is longer, the connection is closed before the body is read.
        live max_package_size: Size = Size::kib(64), check within(Size(1024), Size(16_777_215));
        /// Longest handshake. If it is longer, the connection is closed.
        live max_handshake_size: Size = Size::kib(64), check within(Size(256), Size(1 << 20));
        /// Longest body after inflating (Pitaya clients). A longer message is malformed.
        live max_inflated_size: Size = Size::kib(64), check within(Size(1024), Size(64 << 20));
        /// Time limit for each step of the handshake. The connection is closed when it expires.
        live handshake_timeout: Time = Time::secs(10), check within(Time::millis(100), Time::secs(600));
        /// Longest time without received data if heartbeats are off. The connection is closed when it expires.
        live idle_timeout: Time = Time::secs(90), check within(Time::secs(1), Time::secs(86_400));
        /// Heartbeat interval in whole seconds. 0: no heartbeats, except for Pitaya clients, which require them (30s).
        live heartbeat: Time = Time::secs(0), check |time: &Time| whole_seconds(*time);
        /// Time that a client may be silent if heartbeats are on. 0: twice the interval.
        live heartbeat_timeout: Time = Time::secs(0), check within(Time::secs(0), Time::secs(86_400));
        /// Signatures of requests: `off`, `sha2`, or `legacy` (as in Pomelo, with broken hashes). Pitaya clients cannot sign and are
        /// rejected unless it is `off`.
        live crypto: CryptoSetting = CryptoSetting::Off;
        /// With `crypto`: whether clients that identify as Pitaya clients are accepted without signatures.
        live unsigned_pitaya: bool = false;
        /// Error format for Pomelo clients, for errors without a body: `{"code":500}` (`code`, as in Pomelo), or
        /// `{"code":500,"error":"SHOP-1","msg":".."}` (`text`).
        restart pomelo_errors: PomeloErrorsSetting = PomeloErrorsSetting::Code;
        /// Kinds of clients (`sys.type` in the handshake) that decode text as UTF-16 units, as Pomelo's browser client does. In bodies with
        /// a protobuf schema, characters such as emoji are sent to them as two groups of three bytes, and to all other clients as UTF-8.
        restart browser_clients: Vec<String> = BrowserClients::default().0;
        /// Encoding of bodies for Pitaya clients.
        restart pitaya_serializer: Serializer = Serializer::Json;
        /// Whether messages to Pitaya clients are compressed if that makes them shorter.
        restart compress_pitaya: bool = false;
    }
}

section! {
    /// Listeners for clients. TCP and WebSocket share the port.
    pub struct ListenSettings in "listen" {
        /// Address and port. Empty: no listener without TLS. (The demo has its own setting.)
        restart address: String = "0.0.0.0:3010".to_owned(), check |text: &String| address_or_empty(text);
        /// Connections that may wait in the kernel. Above this limit clients retry.
        restart backlog: u32 = 4096, check within(1, 65_535);
        /// Whether small packages are sent immediately (`TCP_NODELAY`).
        restart nodelay: bool = true;
        /// Whether connections from `access.trusted_proxies` must start with a PROXY protocol header (v1 or v2). If the header contains no
        /// client address (`LOCAL`, `UNKNOWN`), lists and limits apply to the load balancer's own address.
        restart proxy_protocol: bool = false;
        /// Web pages that may open a WebSocket, such as `https://play.example.com`. Empty: all pages. Clients that are not browsers are
        /// always allowed.
        live origins: Vec<String> = Vec::new(), check |list: &Vec<String>| origins(list);
        /// Header with the client's address, such as `x-forwarded-for`, trusted only from `access.trusted_proxies`: the last address that
        /// is not a trusted proxy is used. Proxies must send it: a WebSocket without a readable address is rejected. Empty: no header is
        /// read.
        live address_header: String = String::new(), check |text: &String| address_header(text);
        /// Supported WebSocket subprotocols. A client gets the first of its offered subprotocols that is in this list, or none. Empty: the
        /// first that it offers.
        live subprotocols: Vec<String> = Vec::new(), check |list: &Vec<String>| tokens(list);
        /// Messages per second of one session, on average. Above this limit the session is kicked. 0: no limit.
        live messages_per_second: u32 = 0, check within(0, 1_000_000);
        /// Messages that may arrive at once in addition to the average.
        live burst: u32 = 100, check within(1, 1_000_000);
        /// WebSocket pings per second. Above this limit the connection is closed.
        live pings_per_second: u32 = 20, check within(1, 10_000);
        /// Messages that may wait while a handler of the same session runs. At this limit the connection is not read.
        live waiting_messages: usize = 256, check within(1, 1_000_000);
        /// Bytes of these messages. At this limit the connection is not read.
        live waiting_bytes: Size = Size::kib(256), check within(Size(1024), Size(1 << 30));
        /// Time that a client's socket may accept none of the queued data. The client is disconnected as too slow when it expires.
        live slow_after: Time = Time::secs(5), check within(Time::millis(100), Time::secs(600));
        /// Time in which a closing connection may send its queue. Whatever remains is dropped.
        live linger: Time = Time::secs(2), check within(Time::secs(0), Time::secs(60));
    }
}

section! {
    /// Addresses that may connect, and the number of connections that they may open.
    pub struct AccessSettings in "access" {
        /// If not empty, only these networks may connect.
        live allow: Vec<Network> = Vec::new();
        /// These networks may not connect, even if `allow` contains them.
        live deny: Vec<Network> = Vec::new();
        /// Load balancers whose PROXY header or address header is trusted.
        live trusted_proxies: Vec<Network> = Vec::new();
        /// Open connections of each listener. Above this limit new connections are closed immediately. 0: no limit.
        live max_connections: usize = 0;
        /// Open connections from one address. Above this limit new connections are closed immediately. 0: no limit.
        live max_connections_per_address: usize = 0;
    }
}

section! {
    /// TLS: a second port with encrypted connections.
    pub struct TlsSettings in "tls" {
        /// Address and port. Empty: no listener with TLS.
        restart address: String = String::new(), check |text: &String| address_or_empty(text);
        /// PEM file with the certificate chain, starting with the server's own. SIGHUP reads the file again.
        restart certificate: PathBuf = PathBuf::new();
        /// PEM file with the private key. SIGHUP reads the file again.
        restart key: PathBuf = PathBuf::new();
    }
}

section! {
    /// Handlers, remotes and background work.
    pub struct HandlerSettings in "handlers" {
        /// Time limit of this server's handlers, also for requests that frontends forward. The request receives an error response when it
        /// expires. 0: no limit (frontends wait for an hour). A route may have its own limit.
        restart timeout: Time = Time::secs(30), check within(Time::secs(0), Time::secs(3600));
        /// Time limit of calls to other servers, unless the call sets its own.
        restart rpc_timeout: Time = Time::secs(5), check within(Time::millis(1), Time::secs(3600));
        /// Running requests of concurrent routes. Above this limit requests receive an error response.
        restart max_concurrent: usize = 10_000, check within(1, 10_000_000);
        /// Background tasks. Above this limit spawning fails.
        restart max_tasks: usize = 10_000, check within(1, 10_000_000);
        /// Events of one session that wait for listeners. Above this limit listeners are not notified of a user who was bound and unbound
        /// meanwhile; both events are counted as lost. Listeners are always notified of the user who is bound last, and of the close.
        restart max_waiting_events: usize = 64, check within(1, 100_000);
        /// Time limit of one listener for one event. The listener is dropped when it expires.
        restart event_timeout: Time = Time::secs(30), check within(Time::millis(1), Time::secs(3600));
        /// Time limit of the application's check of a handshake. The client is rejected when it expires.
        restart handshake_timeout: Time = Time::secs(10), check within(Time::millis(1), Time::secs(600));
        /// Time limit for starting a component. The start fails when it expires.
        restart start_timeout: Time = Time::secs(60), check within(Time::millis(1), Time::secs(3600));
        /// Time limit of each step of the stop. When it expires, the remaining work is dropped and logged.
        restart stop_timeout: Time = Time::secs(5), check within(Time::millis(1), Time::secs(600));
    }
}

section! {
    /// Other servers: in this process, or on NATS and etcd. Limits and times apply to a cluster on NATS, for which programs of your own need the
    /// cargo feature `nats`.
    pub struct ClusterSettings in "cluster" {
        /// `local`: all servers are in this process. `nats`: they are on NATS and etcd, together with Pitaya v3 servers if there are any.
        restart mode: ClusterMode = ClusterMode::Local;
        /// NATS servers: `nats://host:port`, or `tls://host:port` for TLS. `user:password@` or `token@` before the host is used to log in;
        /// it must be the same in all of them, and is never printed.
        restart nats_urls: Vec<Address> = vec!["nats://localhost:4222".into()], check |list: &Vec<Address>| some(list);
        /// NATS user. Empty: none.
        restart nats_user: String = String::new();
        /// NATS password.
        restart nats_password: Secret = Secret::default();
        /// NATS token, instead of a user.
        restart nats_token: Secret = Secret::default();
        /// Seed of a NATS nkey (`SU..`), instead of a user.
        restart nats_nkey: Secret = Secret::default();
        /// NATS credentials file, instead of a user. Empty: none.
        restart nats_credentials: PathBuf = PathBuf::new();
        /// PEM file with the trusted certificates for NATS. Empty: those of the system. If it is set, NATS must use TLS.
        restart nats_ca: PathBuf = PathBuf::new();
        /// PEM file with the certificate that this server presents to NATS. Empty: none.
        restart nats_certificate: PathBuf = PathBuf::new();
        /// PEM file with its private key.
        restart nats_key: PathBuf = PathBuf::new();
        /// Time between pings to a silent NATS server; after three pings without a reply the connection is considered lost.
        restart nats_ping_interval: Time = Time::secs(10), check within(Time::millis(100), Time::secs(110));
        /// Time between attempts to reconnect to NATS.
        restart nats_reconnect_delay: Time = Time::secs(1), check within(Time::millis(10), Time::secs(60));
        /// Bytes that may wait while NATS does not accept data. Above this limit sending fails. Expired messages, such as requests past
        /// their time limit, are dropped.
        restart nats_waiting_bytes: Size = Size::kib(64 * 1024), check within(Size::kib(1024), Size(64 << 30));
        /// etcd endpoints: `host:port`, or `https://host:port` for TLS.
        restart etcd_endpoints: Vec<Address> = vec!["localhost:2379".into()], check |list: &Vec<Address>| some(list);
        /// etcd user. Empty: none.
        restart etcd_user: String = String::new();
        /// etcd password.
        restart etcd_password: Secret = Secret::default();
        /// PEM file with the trusted certificates for etcd. Empty: those of the system. If it is set, etcd must use TLS.
        restart etcd_ca: PathBuf = PathBuf::new();
        /// PEM file with the certificate that this server presents to etcd. Empty: none.
        restart etcd_certificate: PathBuf = PathBuf::new();
        /// PEM file with its private key.
        restart etcd_key: PathBuf = PathBuf::new();
        /// Prefix of every key at etcd; the same for all servers of a cluster.
        restart etcd_prefix: String = "pitaya/".to_owned(), check |text: &String| prefix(text);
        /// Time limit of one etcd operation.
        restart etcd_timeout: Time = Time::secs(5), check within(Time::millis(100), Time::secs(60));
        /// Time for which other servers consider this server alive without hearing from it, in whole seconds. After a crash its sessions
        /// stay in the indexes for this time.
        restart lease_ttl: Time = Time::secs(15), check |time: &Time| lease(*time);
        /// Time between full reads of the server list, as a safety net.
        restart sync_interval: Time = Time::secs(120), check within(Time::secs(1), Time::secs(3600));
        /// After an etcd outage: time for which a server that is missing in the list is still considered present.
        restart rejoin_grace: Time = Time::secs(10), check within(Time::secs(0), Time::secs(600));
        /// Time for which a server continues to serve after it has left the list.
        restart shutdown_delay: Time = Time::millis(300), check within(Time::secs(0), Time::secs(60));
        /// Time that this server waits for a Pitaya server's reply to a forwarded request, unless a filter sets another time. (Other
        /// servers announce the time limits of their handlers.) The time is sent with the request. It also applies to pushes and other
        /// operations between servers that have no time of their own.
        restart request_timeout: Time = Time::secs(5), check within(Time::millis(10), Time::secs(600));
        /// Time that a push to another frontend waits for its reply; at most half of `request_timeout`. Frontends without a reply are named
        /// in the result of the push.
        restart push_timeout: Time = Time::secs(2), check within(Time::millis(5), Time::secs(300));
        /// A server with this many consecutive timeouts is suspected: messages go to other servers of its type, and pushes do not wait for
        /// it, until it replies again. A server is also suspected if a call has waited for `request_timeout` and the server does not reply
        /// to a probe. 0: never.
        restart suspect_after: u32 = 3, check within(0, 1000);
        /// Time until a suspected server is probed. It doubles after each probe without a reply, up to 30 s.
        restart probe_interval: Time = Time::secs(1), check within(Time::millis(10), Time::secs(30));
        /// Time limit for a bind to determine the owner of the user, with `session.single_session`.
        restart takeover_timeout: Time = Time::secs(20), check within(Time::millis(100), Time::secs(600));
        /// Concurrent calls to one Pitaya server, which drops calls above 105. Above this limit calls wait.
        restart calls_per_pitaya_server: usize = 25, check within(1, 1_000_000);
        /// Concurrent calls to one shaddock server. Above this limit calls wait.
        restart calls_per_server: usize = 1024, check within(1, 1_000_000);
        /// Calls that wait for their turn, per server. Above this limit calls fail immediately with `PIT-503`.
        restart waiting_calls_per_server: usize = 4096, check within(0, 10_000_000);
        /// Running requests of other servers. Above this limit requests receive `PIT-503`.
        restart max_serving: usize = 4096, check within(1, 10_000_000);
        /// Server types that are ignored.
        restart ignored_types: Vec<String> = Vec::new();
        /// Whether users have subscriptions of their own only while a Pitaya server is present; a subscription costs some kilobytes.
        /// `false`: always, so that no push in the first moments of a Pitaya server is lost.
        restart lazy_user_subjects: bool = true;
        /// Users of each frontend type whose frontends this server remembers, so that a push to a user is sent to one frontend. 0: none.
        restart directory_size: usize = 65_536, check within(0, 100_000_000);
        /// Server of a type that receives a client's message: `random` (as in Pitaya), `round_robin`, or `consistent_hash` of the user.
        /// Programs may choose by type.
        restart routing: RoutingSetting = RoutingSetting::Random;
    }
}

section! {
    /// Traces of requests, sent to an OpenTelemetry collector. [Monitoring](monitoring.md#traces) lists the spans.
    pub struct TelemetrySettings in "telemetry" {
        /// URL of the collector (OTLP over HTTP with protobuf), such as `http://127.0.0.1:4318`. `/v1/traces` is appended unless the URL ends with it. Empty: no traces.
        restart otlp: String = String::new();
        /// Headers of the requests to the collector, each as `name=value`, or `{ env = "NAME" }` for an environment variable that contains one.
        restart headers: SecretTexts = SecretTexts::default();
        /// PEM file of the certificate authorities that are trusted for an `https://` collector. Empty: those of the system.
        restart ca: PathBuf = PathBuf::new();
        /// Share of traces that is recorded, from 0 to 1, of those that start here. A trace that another server started keeps that server's decision.
        restart ratio: f64 = 0.01, check within(0.0, 1.0);
        /// `service.name` of all spans.
        restart service: String = "shaddock".to_owned(), check |text: &String| not_empty(text);
        /// How spans name users: `hashed` (the first 16 hexadecimal digits of the SHA-256 of the uid), `plain` (the uid), or `none`.
        restart users: TracedUsersSetting = TracedUsersSetting::Hashed;
        /// Spans that wait to be sent. Spans above this limit are dropped and counted.
        restart queue: usize = 2048, check within(1, 1_000_000);
        /// Time between two requests to the collector; a request contains at most 512 spans. A request that fails is repeated after this time. After
        /// three attempts its spans are dropped and counted.
        restart interval: Time = Time::secs(5), check within(Time::millis(10), Time::secs(300));
        /// Time limit for a response of the collector. Also the time limit for the last spans when the process ends.
        restart timeout: Time = Time::secs(5), check within(Time::millis(10), Time::secs(60));
    }
}

section! {
    /// The drain after SIGTERM or SIGINT. A second signal ends the process immediately.
    pub struct DrainSettings in "drain" {
        /// Time for which `/readyz` returns 503 before the next step, so that load balancers choose another server.
        live delay: Time = Time::secs(0), check within(Time::secs(0), Time::secs(600));
        /// Time in which all sessions are closed in waves, so that clients do not reconnect all at once.
        live spread: Time = Time::secs(5), check within(Time::secs(0), Time::secs(3600));
        /// Time between two waves.
        live wave_interval: Time = Time::millis(500), check within(Time::millis(10), Time::secs(60));
        /// Time after which the process ends in any case, counted from the signal; `linger` is added.
        live deadline: Time = Time::secs(30), check within(Time::secs(1), Time::secs(3600));
        /// Time for which sessions continue here if their clients can resume them through another frontend: the sessions of clients that
        /// resume, if there is another frontend of the type. The process ends when the last of them has ended, or after this time. 0: they
        /// are closed with the others. In a drain by `shaddock drain` it is 10 minutes unless it is set.
        live linger: Time = Time::secs(0), check within(Time::secs(0), Time::secs(86_400));
    }
}

section! {
    /// A server type that an HTTP service implements: `<type>` is the first part of its routes, as in `[backends.chat]`. There may be
    /// several. With a backend, `shaddock serve` needs no cluster: `cluster.mode` is `local` unless it is set. [The
    /// guide](http-backends.md) describes the requests that a service receives.
    pub struct BackendSettings in "backends.<type>" {
        /// URL of the service, `http://` or `https://`; several if it runs more than once. `/<handler>.<method>` is appended to the path.
        restart url: Texts = Texts::default();
        /// `http2` is also for services that support it without TLS; `auto` uses HTTP/2 if TLS negotiates it. All requests to a URL then
        /// share a connection, and `max_connections` is the number of concurrent requests.
        restart protocol: ProtocolSetting = ProtocolSetting::Auto;
        /// PEM file of the certificate authorities that are trusted for `https://` services. Empty: those of the system.
        restart ca: PathBuf = PathBuf::new();
        /// Time limit of a request. The client receives an error and the connection is closed when it expires.
        restart timeout: Time = Time::secs(2), check within(Time::millis(1), Time::secs(3600));
        /// Time limit of connecting. Another URL is tried when it expires: choose it shorter than `timeout`.
        restart connect_timeout: Time = Time::millis(500), check within(Time::millis(1), Time::secs(3600));
        /// Signs requests (Standard Webhooks): `whsec_` and 24 to 64 bytes in base64, or `{ env = "NAME" }` for an environment variable
        /// that contains it. Two secrets while they are rotated. The variables of a running process do not change: to rotate a secret
        /// without a restart, write it into the file.
        live secret: SecretTexts = SecretTexts::default();
        /// Open connections to each URL. Above this limit requests wait.
        restart max_connections: usize = 64, check within(1, 65_536);
        /// Requests that wait for a connection, for each URL. Above this limit requests receive an error.
        restart queue: usize = 256, check within(0, 1_000_000);
        /// Longest response. A longer one is not read, and the client receives an error.
        restart max_body: Size = Size::kib(1024), check within(Size(2), Size(64 << 20));
        /// Time for which an unused connection may be reused. Choose it shorter than the service's own keep-alive time: a request on a
        /// closing connection is not sent again.
        restart max_idle: Time = Time::secs(1), check within(Time::millis(0), Time::secs(3600));
        /// Strategy that chooses a URL for a request.
        restart balance: BalanceSetting = BalanceSetting::RoundRobin;
        /// Path on each URL's host, such as `/healthz`: a URL whose response to a GET is not 200 or 204 within `timeout` is skipped while
        /// there is another one. Empty: only URLs that do not accept connections are skipped.
        restart health: String = String::new();
        /// Time between health checks.
        restart health_interval: Time = Time::secs(5), check within(Time::millis(100), Time::secs(3600));
        /// Routes (`handler.method`) whose requests do not wait for earlier requests of their session.
        restart concurrent: Vec<String> = Vec::new(), check |list: &Vec<String>| short_routes(list);
        /// Events that are sent to the service: `handshake`, `bound`, `suspended`, `resumed`, `closed`.
        restart events: Vec<String> = Vec::new(), check |list: &Vec<String>| event_names(list);
    }
}
