//! Every section with its keys: documentation, type, default, bounds, and whether a change needs a restart.

use std::path::PathBuf;

use shaddock_cluster::{Address, Secret};
use shaddock_protocol::BrowserClients;

use super::{
    section::{section, within},
    value::{Network, SecretTexts, Size, Texts, Time, choice},
};
use crate::backend::BackendEvent;

choice! {
    /// How logs are written.
    pub enum LogFormat {
        /// For people when standard error is a terminal, JSON otherwise.
        Auto = "auto",
        /// One line for people, in colour on a terminal.
        Human = "human",
        /// One JSON object per line.
        Json = "json",
    }
}

choice! {
    /// Who wins when a user who may have one session only comes a second time.
    pub enum OnConflict {
        /// The old session stays, the new bind fails.
        RejectNew = "reject_new",
        /// The old session is closed, the new one is bound.
        ReplaceOld = "replace_old",
    }
}

choice! {
    /// What happens when as much is kept for a client as may be.
    pub enum OnFullSetting {
        /// The oldest message is discarded, and the client receives the number of missed messages.
        Gap = "gap",
        /// Senders that await their pushes wait, at most `max_wait`; up to twice the limits are kept meanwhile. Above that as `gap`.
        Wait = "wait",
    }
}

choice! {
    /// What clients may speak.
    pub enum DialectSetting {
        /// The handshake tells.
        Auto = "auto",
        /// Pomelo and Pinus clients.
        Pomelo = "pomelo",
        /// Pitaya and nano clients.
        Pitaya = "pitaya",
    }
}

choice! {
    /// What bodies of Pitaya clients are written in.
    pub enum Serializer {
        /// JSON.
        Json = "json",
        /// Google protobuf, passed through.
        Protobuf = "protobuf",
    }
}

choice! {
    /// What Pomelo clients read of an error.
    pub enum PomeloErrorsSetting {
        /// `{"code":500}`.
        Code = "code",
        /// Code and text too.
        Text = "text",
    }
}

choice! {
    /// Signatures of Pomelo clients.
    pub enum CryptoSetting {
        /// Not asked for.
        Off = "off",
        /// SHA-256 or SHA-512.
        Sha2 = "sha2",
        /// SHA-1 and MD5 too, which are broken.
        Legacy = "legacy",
    }
}

choice! {
    /// How the servers of an application find each other.
    pub enum ClusterMode {
        /// They are all in this process.
        Local = "local",
        /// Over NATS and etcd, with servers of Pitaya v3 among them.
        Nats = "nats",
    }
}

choice! {
    /// Which server of a type gets a message.
    pub enum RoutingSetting {
        /// Any.
        Random = "random",
        /// One after the other.
        RoundRobin = "round_robin",
        /// The same one for the same user.
        ConsistentHash = "consistent_hash",
    }
}

section! {
    /// This process.
    pub struct ServerSettings in "server" {
        /// Server type of `shaddock serve`: the first part of routes that it would serve itself. (Programs name their own.)
        restart server_type: String = "connector".to_owned(), check |text: &String| server_name(text);
        /// Server id of `shaddock serve`, unique in the cluster. Empty: a new one at every start.
        restart id: String = String::new(), check |text: &String| id_or_empty(text);
        /// Threads that serve clients. 0: one per core.
        restart workers: u16 = 0, check within(0, 1024);
    }
}

section! {
    /// Logs on standard error.
    pub struct LogSettings in "log" {
        /// `auto` is `human` on a terminal and `json` elsewhere.
        restart format: LogFormat = LogFormat::Auto;
        /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`), or levels by module,
        /// such as `info,shaddock_net=debug`.
        live filter: String = "info".to_owned(), check |text: &String| crate::logging::check_filter(text);
        /// Bytes of lines that wait while standard error is not read. Above it lines are dropped and counted; no server waits.
        restart queue_bytes: Size = Size::kib(1024), check within(Size::kib(16), Size(1 << 30));
    }
}

section! {
    /// The admin server: health, metrics and the API of operators.
    pub struct AdminSettings in "admin" {
        /// Address and port. Empty: no admin server. An address that is not loopback needs `token`.
        restart address: String = "127.0.0.1:3005".to_owned(), check |text: &String| address_or_empty(text);
        /// Callers must send it as `Authorization: Bearer <token>`; at least 16 characters. It allows everything. Without any token,
        /// any process on this machine may call. `/healthz` and `/readyz` never need one.
        live token: Secret = Secret::default(), check |text: &Secret| token(text.expose());
        /// More tokens that allow everything: `token` and these make a change from one to the other possible.
        live operate_tokens: SecretTexts = SecretTexts::default(), check |list: &SecretTexts| list_of_tokens(list);
        /// Tokens that allow pushes of the [server API](server-api.md), and nothing else.
        live push_tokens: SecretTexts = SecretTexts::default(), check |list: &SecretTexts| list_of_tokens(list);
        /// Tokens that allow to look, at metrics too, and to count; nothing is changed with them.
        live read_tokens: SecretTexts = SecretTexts::default(), check |list: &SecretTexts| list_of_tokens(list);
        /// File that gets a line of JSON for each command of the server API: who, what, how many, when. If empty, the log gets them.
        restart audit: PathBuf = PathBuf::new();
        /// Whether the admin server has the [console](console.md), a page for browsers, under `/console/`.
        restart console: bool = true;
        /// Events of sessions (binds, unbinds, lost connections, returns, closes) that each frontend keeps for operators. Above it the oldest
        /// is dropped. 0: none is kept.
        restart kept_events: usize = 4096, check within(0, 1_000_000);
        /// Bytes of a request's body. Above it the answer is 413.
        restart max_body: Size = Size::kib(64), check within(Size(1024), Size(16 << 20));
        /// Open connections. Above it new ones wait in the kernel until one ends.
        restart max_connections: usize = 64, check within(1, 10_000);
        /// Time for the head of a request, also of the next one on the same connection. Then the connection is closed.
        restart head_timeout: Time = Time::secs(5), check within(Time::millis(100), Time::secs(60));
        /// Time for a request from its head to its answer, and for a connection without a byte in either direction. Then the
        /// connection is closed.
        restart idle_timeout: Time = Time::secs(30), check within(Time::secs(10), Time::secs(600));
        /// How long an answer about the whole cluster waits for the other servers. Who has not answered then is named in it.
        restart cluster_timeout: Time = Time::secs(3), check within(Time::millis(100), Time::secs(8));
        /// Servers that are asked at the same time for such an answer. The others wait for one of these places.
        restart cluster_calls: usize = 64, check within(1, 10_000);
    }
}

section! {
    /// Sessions of users.
    pub struct SessionSettings in "session" {
        /// Whether a user may have one session only.
        restart single_session: bool = false;
        /// With `single_session`: whether the second bind fails (`reject_new`, as in Pomelo) or closes the first session.
        restart on_conflict: OnConflict = OnConflict::RejectNew;
        /// Bytes that may wait for a client whose socket is full. Above it the client is disconnected as too slow; from a quarter of it on
        /// the client's further requests wait, and so do handlers that await their pushes, until the socket was offered what there is.
        restart outbox_bytes: Size = Size::kib(1024), check within(Size(4096), Size(1 << 30));
        /// Listeners on one session. Above it registration fails.
        restart max_listeners: usize = 64, check within(1, 1_000_000);
        /// Settings of one session. Above it setting fails.
        restart max_settings: usize = 1024, check within(1, 1_000_000);
        /// Channels and topics that one user may be in on this frontend. Above it joining fails.
        restart max_memberships: usize = 1024, check within(1, 1_000_000);
        /// Bytes of user data in a client's handshake that are kept with its session, beside its kind, version and platform. Longer data are
        /// left out. 0: nothing of a handshake is kept.
        restart handshake_bytes: Size = Size(1024), check within(Size(0), Size::kib(64));
    }
}

section! {
    /// Sessions that outlive their sockets, for clients that ask for it.
    pub struct ResumeSettings in "session.resume" {
        /// Whether clients that ask get such a session.
        restart enabled: bool = true;
        /// How long a session waits for its client after its connection was lost. Then it is closed.
        restart window: Time = Time::secs(60), check within(Time::secs(1), Time::secs(3600));
        /// After so many messages each end acknowledges.
        restart ack: usize = 32, check within(1, 255);
        /// Messages that a session keeps for its client until they are acknowledged. Above it the oldest is forgotten, and a client that comes
        /// back is told how many it has missed.
        restart max_messages: usize = 256, check within(1, 65_536);
        /// Bytes of those messages. As above.
        restart max_bytes: Size = Size::kib(64), check within(Size(1024), Size(64 << 20));
        /// Bytes that all sessions of the server keep together. At the bound, a session that keeps another message forgets its oldest ones.
        restart max_total_bytes: Size = Size::kib(256 * 1024), check within(Size(1 << 20), Size(1 << 40));
        /// Sessions that wait for their clients. Above it the one that has waited longest is closed.
        restart max_suspended: usize = 100_000, check within(1, 10_000_000);
        /// Above `max_messages` and `max_bytes`: `gap` discards the oldest message. With `wait`, senders that await their pushes wait for the client's
        /// acknowledgement, and up to twice as much is kept meanwhile; a push to many clients waits for the slowest of them.
        restart on_full: OnFullSetting = OnFullSetting::Gap;
        /// With `on_full = "wait"`: the longest time that a sender that awaits its push waits. From another server at most half of `cluster.push_timeout`.
        restart max_wait: Time = Time::secs(1), check within(Time::millis(10), Time::secs(60));
        /// Whether clients without TLS get none. Behind a proxy that ends TLS, all connections are without.
        restart require_tls: bool = false;
        /// Where clients come back to first, such as `wss://c1.example.com`: behind a load balancer, the way to this very server. Empty: where
        /// they connected at first.
        restart address: String = String::new(), check |text: &String| url_or_empty(text);
        /// Whether a client that comes back to this frontend gets its session if another frontend of the type has it. Its connection is relayed
        /// then, for as long as it lasts.
        restart other_frontends: bool = true;
        /// Clients of one address that come back in vain, a minute. Those above get a new session without a look at their token.
        restart max_refused: usize = 60, check within(1, 4_000_000_000);
        /// Clients of one address that come back, a minute. Those above get a new session.
        restart max_returns: usize = 60_000, check within(1, 4_000_000_000);
    }
}

section! {
    /// The language of clients and the bounds on what they send.
    pub struct ProtocolSettings in "protocol" {
        /// Which clients are served.
        restart dialect: DialectSetting = DialectSetting::Auto;
        /// Longest body of a package. Above it the connection is closed before the body is read.
        live max_package_size: Size = Size::kib(64), check within(Size(1024), Size(16_777_215));
        /// Longest handshake. Above it the connection is closed.
        live max_handshake_size: Size = Size::kib(64), check within(Size(256), Size(1 << 20));
        /// Longest body after inflating (Pitaya clients). Above it the message is malformed.
        live max_inflated_size: Size = Size::kib(64), check within(Size(1024), Size(64 << 20));
        /// Time for each step of the handshake. Then the connection is closed.
        live handshake_timeout: Time = Time::secs(10), check within(Time::millis(100), Time::secs(600));
        /// Longest time without a byte while there are no heartbeats. Then the connection is closed.
        live idle_timeout: Time = Time::secs(90), check within(Time::secs(1), Time::secs(86_400));
        /// Heartbeat interval, whole seconds. 0: none, except for Pitaya clients, which cannot do without (30s).
        live heartbeat: Time = Time::secs(0), check |time: &Time| whole_seconds(*time);
        /// How long a client may be silent when heartbeats are on. 0: twice the interval.
        live heartbeat_timeout: Time = Time::secs(0), check within(Time::secs(0), Time::secs(86_400));
        /// Signatures of requests: `off`, `sha2`, or `legacy` (as Pomelo, with broken hashes).
        /// Pitaya clients cannot sign and are refused then.
        live crypto: CryptoSetting = CryptoSetting::Off;
        /// With `crypto`: whether clients that say they are Pitaya's are served all the same, without signatures.
        live unsigned_pitaya: bool = false;
        /// What Pomelo clients read of an error without a body: `{"code":500}` (`code`, as from Pomelo), or
        /// `{"code":500,"error":"SHOP-1","msg":".."}` (`text`).
        restart pomelo_errors: PomeloErrorsSetting = PomeloErrorsSetting::Code;
        /// Kinds of clients (`sys.type` in the handshake) that read text one UTF-16 unit after the other, as Pomelo's browser client does. In
        /// bodies with a protobuf schema they get characters such as emoji as two groups of three bytes, and all others as UTF-8.
        restart browser_clients: Vec<String> = BrowserClients::default().0;
        /// What bodies of Pitaya clients are written in.
        restart pitaya_serializer: Serializer = Serializer::Json;
        /// Whether what goes to Pitaya clients is deflated where that makes it shorter.
        restart compress_pitaya: bool = false;
    }
}

section! {
    /// Listening for clients. TCP and WebSocket share the port.
    pub struct ListenSettings in "listen" {
        /// Address and port. Empty: no listener without TLS. (The demo has its own.)
        restart address: String = "0.0.0.0:3010".to_owned(), check |text: &String| address_or_empty(text);
        /// Connections that wait in the kernel. Above it clients retry by themselves.
        restart backlog: u32 = 4096, check within(1, 65_535);
        /// Whether small packages are sent at once (`TCP_NODELAY`).
        restart nodelay: bool = true;
        /// Whether connections from `access.trusted_proxies` must begin with a PROXY protocol head (v1 or v2). With a head that
        /// names no client (`LOCAL`, `UNKNOWN`) the balancer is the client: lists and limits are about its own address.
        restart proxy_protocol: bool = false;
        /// Web pages that may open a WebSocket, such as `https://play.example.com`. Empty: all. Clients that are no browser
        /// always may.
        live origins: Vec<String> = Vec::new(), check |list: &Vec<String>| super::check::origins(list);
        /// Header with the client's address, believed from `access.trusted_proxies` only, such as `x-forwarded-for`: the last hop
        /// that is no trusted proxy. They must send it: without an address that can be read, a WebSocket is refused. Empty: none.
        live address_header: String = String::new(), check |text: &String| address_header(text);
        /// WebSocket subprotocols that are spoken. A client gets the first that it offers and that is in this list, or none.
        /// Empty: the first that it offers.
        live subprotocols: Vec<String> = Vec::new(), check |list: &Vec<String>| tokens(list);
        /// Messages per second of one session, on average. Above it the session is kicked. 0: no limit.
        live messages_per_second: u32 = 0, check within(0, 1_000_000);
        /// Messages that may come at once on top of the average.
        live burst: u32 = 100, check within(1, 1_000_000);
        /// WebSocket pings per second. Above it the connection is closed.
        live pings_per_second: u32 = 20, check within(1, 10_000);
        /// Messages that wait while a handler of the same session runs. At the bound the connection is not read.
        live waiting_messages: usize = 256, check within(1, 1_000_000);
        /// Bytes of those messages. At the bound the connection is not read.
        live waiting_bytes: Size = Size::kib(256), check within(Size(1024), Size(1 << 30));
        /// How long a client's socket may take nothing of what waits for it. Then the client is disconnected as too slow.
        live slow_after: Time = Time::secs(5), check within(Time::millis(100), Time::secs(600));
        /// How long a closing connection may take to send what is queued. Then the rest is lost.
        live linger: Time = Time::secs(2), check within(Time::secs(0), Time::secs(60));
    }
}

section! {
    /// Who may connect, and how many.
    pub struct AccessSettings in "access" {
        /// If not empty, only these networks may connect.
        live allow: Vec<Network> = Vec::new();
        /// These networks may not connect, also when they are allowed above.
        live deny: Vec<Network> = Vec::new();
        /// Load balancers whose PROXY head or address header is believed.
        live trusted_proxies: Vec<Network> = Vec::new();
        /// Open connections of each listener. Above it new ones are closed at once. 0: no limit.
        live max_connections: usize = 0;
        /// Open connections from one address. Above it new ones are closed at once. 0: no limit.
        live max_connections_per_address: usize = 0;
    }
}

section! {
    /// TLS: a second port on which everything is encrypted.
    pub struct TlsSettings in "tls" {
        /// Address and port. Empty: no listener with TLS.
        restart address: String = String::new(), check |text: &String| address_or_empty(text);
        /// PEM file with the certificate chain, the server's own first. SIGHUP reads the file again.
        restart certificate: PathBuf = PathBuf::new();
        /// PEM file with the private key. SIGHUP reads the file again.
        restart key: PathBuf = PathBuf::new();
    }
}

section! {
    /// Handlers, remotes and background work.
    pub struct HandlerSettings in "handlers" {
        /// How long a handler of this server may take, also for requests that frontends forward. Then the request is answered with an error.
        /// 0: for ever (frontends wait for an hour). A route may have a time of its own.
        restart timeout: Time = Time::secs(30), check within(Time::secs(0), Time::secs(3600));
        /// How long a call of another server may take, unless the call says otherwise.
        restart rpc_timeout: Time = Time::secs(5), check within(Time::millis(1), Time::secs(3600));
        /// Requests of concurrent routes at work. Above it they are answered with an error.
        restart max_concurrent: usize = 10_000, check within(1, 10_000_000);
        /// Background tasks. Above it spawning fails.
        restart max_tasks: usize = 10_000, check within(1, 10_000_000);
        /// Events of one session that wait for listeners. Above it a user who was bound and unbound again meanwhile is not told of;
        /// both events are counted as lost. Who is bound in the end is always told, and so is the close.
        restart max_waiting_events: usize = 64, check within(1, 100_000);
        /// How long one listener may take for an event. Then it is given up.
        restart event_timeout: Time = Time::secs(30), check within(Time::millis(1), Time::secs(3600));
        /// How long the application may take to judge a handshake. Then the client is refused.
        restart handshake_timeout: Time = Time::secs(10), check within(Time::millis(1), Time::secs(600));
        /// How long a component may take to start. Then the start fails.
        restart start_timeout: Time = Time::secs(60), check within(Time::millis(1), Time::secs(3600));
        /// How long each step of the stop may take. Then what is left is abandoned and logged.
        restart stop_timeout: Time = Time::secs(5), check within(Time::millis(1), Time::secs(600));
    }
}

section! {
    /// Other servers: in this process, or on NATS and etcd. Bounds and times are those of a NATS cluster.
    pub struct ClusterSettings in "cluster" {
        /// `local`: all servers are in this process. `nats`: they are on NATS and etcd; Pitaya v3 servers may be among them.
        restart mode: ClusterMode = ClusterMode::Local;
        /// NATS servers: `nats://host:port`, or `tls://host:port` for TLS. `user:password@` or `token@` before the host logs in; then it
        /// is the same in all of them, and is not printed.
        restart nats_urls: Vec<Address> = vec!["nats://localhost:4222".into()], check |list: &Vec<Address>| some(list);
        /// User at NATS. Empty: none.
        restart nats_user: String = String::new();
        /// Password at NATS.
        restart nats_password: Secret = Secret::default();
        /// Token at NATS, instead of a user.
        restart nats_token: Secret = Secret::default();
        /// Seed of an nkey (`SU..`), instead of a user.
        restart nats_nkey: Secret = Secret::default();
        /// NATS credentials file, instead of a user. Empty: none.
        restart nats_credentials: PathBuf = PathBuf::new();
        /// PEM file with the certificates that are trusted at NATS. Empty: those of the system. If it is set, NATS must speak TLS.
        restart nats_ca: PathBuf = PathBuf::new();
        /// PEM file with the certificate that this server shows to NATS. Empty: none.
        restart nats_certificate: PathBuf = PathBuf::new();
        /// PEM file with its private key.
        restart nats_key: PathBuf = PathBuf::new();
        /// Time between pings to a silent NATS server; three without an answer are a lost connection.
        restart nats_ping_interval: Time = Time::secs(10), check within(Time::millis(100), Time::secs(110));
        /// Time between attempts to reach NATS again.
        restart nats_reconnect_delay: Time = Time::secs(1), check within(Time::millis(10), Time::secs(60));
        /// Bytes that wait to be sent while NATS does not take them. Above it sending fails. What waits for longer than it is worth, such as a
        /// request for its timeout, is thrown away.
        restart nats_waiting_bytes: Size = Size::kib(64 * 1024), check within(Size::kib(1024), Size(64 << 30));
        /// Endpoints of etcd: `host:port`, or `https://host:port` for TLS.
        restart etcd_endpoints: Vec<Address> = vec!["localhost:2379".into()], check |list: &Vec<Address>| some(list);
        /// User at etcd. Empty: none.
        restart etcd_user: String = String::new();
        /// Password at etcd.
        restart etcd_password: Secret = Secret::default();
        /// PEM file with the certificates that are trusted at etcd. Empty: those of the system. If it is set, etcd must speak TLS.
        restart etcd_ca: PathBuf = PathBuf::new();
        /// PEM file with the certificate that this server shows to etcd. Empty: none.
        restart etcd_certificate: PathBuf = PathBuf::new();
        /// PEM file with its private key.
        restart etcd_key: PathBuf = PathBuf::new();
        /// In front of every key at etcd; all servers of a cluster have the same.
        restart etcd_prefix: String = "pitaya/".to_owned(), check |text: &String| prefix(text);
        /// How long one operation at etcd may take.
        restart etcd_timeout: Time = Time::secs(5), check within(Time::millis(100), Time::secs(60));
        /// How long others believe that this server lives without hearing of it. Whole seconds. After a crash its sessions are
        /// in the indexes for so long.
        restart lease_ttl: Time = Time::secs(15), check |time: &Time| lease(*time);
        /// Time between full reads of the server list, a safety net.
        restart sync_interval: Time = Time::secs(120), check within(Time::secs(1), Time::secs(3600));
        /// After etcd was silent: how long a server that is missing in its list is still believed to be there.
        restart rejoin_grace: Time = Time::secs(10), check within(Time::secs(0), Time::secs(600));
        /// How long a server serves on after it left the list.
        restart shutdown_delay: Time = Time::millis(300), check within(Time::secs(0), Time::secs(60));
        /// How long this server waits for the answer of a Pitaya server to a forwarded request, unless a filter set another time for it. (Others
        /// announce how long their handlers may take.) The time travels with the request. Also for pushes and other operations between
        /// servers, which have no time of their own.
        restart request_timeout: Time = Time::secs(5), check within(Time::millis(10), Time::secs(600));
        /// How long a push to another frontend waits for its answer; at most half of `request_timeout`. Who has not answered is named in
        /// what the push returns.
        restart push_timeout: Time = Time::secs(2), check within(Time::millis(5), Time::secs(300));
        /// After so many time-outs in a row a server is suspected: others of its type get the messages, and pushes to it are not waited
        /// for, until it answers again. Also suspected is a server that does not answer a question when a call has waited there for
        /// `request_timeout`, however long that call may take. 0: never.
        restart suspect_after: u32 = 3, check within(0, 1000);
        /// Time until a suspected server is asked whether it answers. Doubles each time that it does not, up to 30 s.
        restart probe_interval: Time = Time::secs(1), check within(Time::millis(10), Time::secs(30));
        /// How long a bind may take to settle who owns the user, with `session.single_session`.
        restart takeover_timeout: Time = Time::secs(20), check within(Time::millis(100), Time::secs(600));
        /// Calls in flight to one Pitaya server, which drops what exceeds 105. Above it calls wait.
        restart calls_per_pitaya_server: usize = 25, check within(1, 1_000_000);
        /// Calls in flight to one shaddock server. Above it calls wait.
        restart calls_per_server: usize = 1024, check within(1, 1_000_000);
        /// Calls that wait for one of these places, per server. Above it a call fails at once.
        restart waiting_calls_per_server: usize = 4096, check within(0, 10_000_000);
        /// Requests of other servers at work. Above it they are answered `PIT-503`.
        restart max_serving: usize = 4096, check within(1, 10_000_000);
        /// Server types that are not looked at.
        restart ignored_types: Vec<String> = Vec::new();
        /// Users have subscriptions of their own only while a Pitaya server is there, which costs some kilobytes for each. `false`: always, so that not even a
        /// push in the first moments of a Pitaya server can be lost.
        restart lazy_user_subjects: bool = true;
        /// For how many users of each type of frontends this server remembers where they are, so that a push to a user goes to one frontend. 0: none.
        restart directory_size: usize = 65_536, check within(0, 100_000_000);
        /// Which server of a type gets a client's message: `random` (as Pitaya), `round_robin`, or `consistent_hash` of the user.
        /// Programs may choose by type.
        restart routing: RoutingSetting = RoutingSetting::Random;
    }
}

choice! {
    /// How traces name users.
    pub enum TracedUsersSetting {
        /// By a hash of the uid.
        Hashed = "hashed",
        /// By the uid.
        Plain = "plain",
        /// Not at all.
        Left = "none",
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
    /// Going down after SIGTERM or SIGINT. A second signal ends the process at once.
    pub struct DrainSettings in "drain" {
        /// How long `/readyz` says no before anything else happens, so that load balancers look elsewhere.
        live delay: Time = Time::secs(0), check within(Time::secs(0), Time::secs(600));
        /// Time in which all sessions are closed, in waves, so that clients do not come back all at once.
        live spread: Time = Time::secs(5), check within(Time::secs(0), Time::secs(3600));
        /// Time between two waves.
        live wave_interval: Time = Time::millis(500), check within(Time::millis(10), Time::secs(60));
        /// Time after which the process ends in any case, counted from the signal; `linger` comes on top.
        live deadline: Time = Time::secs(30), check within(Time::secs(1), Time::secs(3600));
        /// How long sessions go on here whose clients can come back to them through another frontend: those of clients that resume, if
        /// there is another frontend of the type. The process ends when the last one has ended, or after this time. 0: they are closed
        /// with the others. In a drain by `shaddock drain` it is 10 minutes unless it is set.
        live linger: Time = Time::secs(0), check within(Time::secs(0), Time::secs(86_400));
    }
}

fn address_or_empty(text: &str) -> Result<(), String> {
    if text.is_empty() || text.parse::<std::net::SocketAddr>().is_ok() {
        return Ok(());
    }
    Err(format!(
        "\"{text}\" is no address with a port; write \"127.0.0.1:3005\", \"0.0.0.0:3005\" or \"[::1]:3005\""
    ))
}

fn address_header(text: &str) -> Result<(), String> {
    if text.eq_ignore_ascii_case("forwarded") {
        return Err(
            "the `Forwarded` header is not read; let the proxy send the address alone, and write \"x-forwarded-for\" or \"x-real-ip\""
                .to_owned(),
        );
    }
    if text.is_empty() || shaddock_net::is_token(text.as_bytes()) {
        return Ok(());
    }
    Err(format!(
        "\"{text}\" is no name of a header; write \"x-forwarded-for\""
    ))
}

fn tokens(list: &[String]) -> Result<(), String> {
    match list
        .iter()
        .find(|name| !shaddock_net::is_token(name.as_bytes()))
    {
        None => Ok(()),
        Some(name) => Err(format!(
            "\"{name}\" is no name of a subprotocol; write letters, digits and `-`, `.` or `_`, such as \"pomelo\""
        )),
    }
}

choice! {
    /// Which URL of a backend gets a request.
    pub enum BalanceSetting {
        /// One after the other.
        RoundRobin = "round_robin",
        /// The same one for the same user.
        UserHash = "user_hash",
    }
}

choice! {
    /// What is spoken with a backend.
    pub enum ProtocolSetting {
        /// HTTP/2 where TLS agrees on it, otherwise HTTP/1.1.
        Auto = "auto",
        /// HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2.
        Http2 = "http2",
    }
}

section! {
    /// A server type that is a service over HTTP: `<type>` stands for the first part of its routes, `[backends.chat]`. There may be several. With
    /// one, `shaddock serve` needs no cluster: `cluster.mode` is `local` unless it is set. [The guide](http-backends.md) says what a service is asked.
    pub struct BackendSettings in "backends.<type>" {
        /// Where the service is, `http://` or `https://`; several if it runs more than once. The path goes on with `/<handler>.<method>`.
        restart url: Texts = Texts::default();
        /// `http2` without TLS is for services that are known to speak it; `auto` speaks it where TLS agrees on it. Then all requests to a URL share a
        /// connection, and `max_connections` is how many are at work at once.
        restart protocol: ProtocolSetting = ProtocolSetting::Auto;
        /// PEM file of the certificates that sign those of `https://` services. If empty, those of this system do.
        restart ca: PathBuf = PathBuf::new();
        /// How long a request may take. Then its client gets an error, and the connection is closed.
        restart timeout: Time = Time::secs(2), check within(Time::millis(1), Time::secs(3600));
        /// How long it may take to connect. Then another URL is tried: choose it shorter than `timeout`.
        restart connect_timeout: Time = Time::millis(500), check within(Time::millis(1), Time::secs(3600));
        /// Signs requests (Standard Webhooks): `whsec_` and 24 to 64 bytes in base64, or `{ env = "NAME" }` for a variable that has it. A list of two
        /// while services change from one to the other.
        restart secret: SecretTexts = SecretTexts::default();
        /// Open connections to each URL. Above it requests wait.
        restart max_connections: usize = 64, check within(1, 65_536);
        /// Requests that wait for a connection, for each URL. Above it they get an error.
        restart queue: usize = 256, check within(0, 1_000_000);
        /// The longest answer. A longer one is not read, and its client gets an error.
        restart max_body: Size = Size::kib(1024), check within(Size(2), Size(64 << 20));
        /// How long an unused connection may be used again. Choose it shorter than the service's own keep-alive time: a request that meets a closing
        /// connection is not sent again.
        restart max_idle: Time = Time::secs(1), check within(Time::millis(0), Time::secs(3600));
        /// Which URL gets a request.
        restart balance: BalanceSetting = BalanceSetting::RoundRobin;
        /// A path of each URL's host, such as `/healthz`: a GET that is not answered with 200 or 204 within `timeout` leaves the URL out as long as
        /// there is another one. If empty, only URLs that do not accept connections are left out.
        restart health: String = String::new();
        /// Time between health checks.
        restart health_interval: Time = Time::secs(5), check within(Time::millis(100), Time::secs(3600));
        /// Routes, `handler.method`, whose requests do not wait for earlier ones of their session.
        restart concurrent: Vec<String> = Vec::new(), check |list: &Vec<String>| short_routes(list);
        /// What the service is told of: `handshake`, `bound`, `suspended`, `resumed`, `closed`.
        restart events: Vec<String> = Vec::new(), check |list: &Vec<String>| event_names(list);
    }
}

fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("a name is wanted".to_owned());
    }
    Ok(())
}

fn short_routes(list: &[String]) -> Result<(), String> {
    let is_short = |route: &str| {
        let parts: Vec<&str> = route.split('.').collect();
        parts.len() == 2 && parts.iter().all(|part| !part.is_empty())
    };
    match list.iter().find(|route| !is_short(route)) {
        None => Ok(()),
        Some(route) => Err(format!(
            "\"{route}\" is no `handler.method`; leave the server type out"
        )),
    }
}

fn event_names(list: &[String]) -> Result<(), String> {
    let known = BackendEvent::ALL.map(BackendEvent::name);
    match list.iter().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(format!(
            "\"{name}\" is no event; there are `{}`",
            known.join("`, `")
        )),
    }
}

pub(super) fn server_name(text: &str) -> Result<(), String> {
    shaddock_cluster::ServerId::new(text)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn url_or_empty(text: &str) -> Result<(), String> {
    let schemes = ["ws://", "wss://", "tcp://", "tls://"];
    if text.len() > 256 {
        return Err("at most 256 characters are wanted".to_owned());
    }
    if text.is_empty() || schemes.iter().any(|scheme| text.starts_with(scheme)) {
        return Ok(());
    }
    Err(format!(
        "\"{text}\" is no address for a client; write it with its scheme, such as \"wss://c1.example.com\""
    ))
}

fn id_or_empty(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    server_name(text)
}

fn some(list: &[Address]) -> Result<(), String> {
    if list.is_empty() || list.iter().any(Address::is_empty) {
        return Err("at least one address is wanted, and none that is empty".to_owned());
    }
    Ok(())
}

fn prefix(text: &str) -> Result<(), String> {
    if text.is_empty() || text.ends_with('/') {
        return Ok(());
    }
    Err(format!("\"{text}\" must end in `/`"))
}

fn lease(time: Time) -> Result<(), String> {
    if time.0.subsec_nanos() != 0 {
        return Err(format!("{time} is not a number of whole seconds"));
    }
    within(Time::secs(1), Time::secs(3600))(&time)
}

fn token(text: &str) -> Result<(), String> {
    let fine =
        text.is_empty() || text.len() >= 16 && text.bytes().all(|byte| byte.is_ascii_graphic());
    fine.then_some(()).ok_or_else(|| {
        "a token needs at least 16 visible ASCII characters; try `openssl rand -hex 32`".to_owned()
    })
}

fn list_of_tokens(list: &SecretTexts) -> Result<(), String> {
    list.0.iter().try_for_each(|one| {
        if one.is_empty() {
            return Err("an empty text is no token; leave it out".to_owned());
        }
        token(one.expose())
    })
}

fn whole_seconds(time: Time) -> Result<(), String> {
    if time.0.subsec_nanos() != 0 {
        return Err(format!(
            "{time} is not a number of whole seconds, which is all that C and Go clients can read"
        ));
    }
    within(Time::secs(0), Time::secs(3600))(&time)
}
