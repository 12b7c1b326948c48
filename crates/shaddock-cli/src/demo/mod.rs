//! `shaddock demo`: Pomelo's chat sample on shaddock, with a page of its own; in one process, or as a cluster.
//!
//! - `gate`: a server that tells clients which connector is theirs
//! - `entry`: the connectors, where clients log in
//! - `chat`: the rooms
//! - `page`: the web page and the sessions it shows
//! - `cluster`: the same servers as processes of their own, on NATS and etcd
//!
//! Routes, bodies, dictionary and schemas are those of `NetEase/chatofpomelo-websocket`, so that its page and client work here.
//!
//! A configuration may name services over HTTP for the types `connector` and `chat` (`[backends.connector]`): those answer then, and the demo starts no
//! servers of its own for these routes. `examples/http` has such services.

mod chat;
pub(crate) mod cluster;
mod entry;
mod gate;
mod page;

use std::{
    io::IsTerminal as _,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use shaddock::{
    app::{DictionaryConfig, Running},
    config::Config,
    launch::Launcher,
    prelude::*,
    wire::{CodecConfig, Protos, Schema},
};

use crate::{ConfigSource, commands::Outcome, print_within};

/// The messages that clients send and receive in protobuf: the sample's `clientProtos.json` and `serverProtos.json`.
const CLIENT_PROTOS: &str = include_str!("client_protos.json");
const SERVER_PROTOS: &str = include_str!("server_protos.json");

/// Heartbeats of the sample, unless the configuration says otherwise.
const HEARTBEAT: &str = "protocol.heartbeat=3s";

/// Run the chat demo.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// Address to listen on; use 0.0.0.0 to let others in
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Host name that clients are told to connect to; default: the address of this machine that faces the client
    #[arg(long, value_name = "HOST")]
    public_host: Option<String>,
    /// Port of the gate
    #[arg(long, default_value_t = 3014)]
    gate_port: u16,
    /// Ports of the connectors, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [3050, 3051])]
    connector_ports: Vec<u16>,
    /// Port of the web page
    #[arg(long, default_value_t = 3001)]
    page_port: u16,
    /// Run every server as a process of its own, on NATS and etcd: those that are configured (cluster.nats_urls,
    /// cluster.etcd_endpoints), or else its own, for which nats-server and etcd must be installed
    #[arg(long)]
    cluster: bool,
    /// Run only this server of such a cluster: gate-1, connector-1, connector-2, chat-1, chat-2, ..
    #[arg(long, value_name = "SERVER", conflicts_with = "cluster")]
    only: Option<String>,
    #[command(flatten)]
    child: cluster::ChildArgs,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

pub(crate) fn run(args: &DemoArgs) -> Outcome {
    if args.connector_ports.is_empty() {
        return Err("the demo needs at least one connector; see --connector-ports".into());
    }
    match &args.only {
        Some(id) => cluster::run_one(args, id),
        None if args.cluster => cluster::run(args),
        None => run_all(args),
    }
}

/// All servers in this process.
fn run_all(args: &DemoArgs) -> Outcome {
    let mut launcher = Launcher::new(args.source.clone().sources().preset(HEARTBEAT))?;
    launcher.init_logs()?;
    let mut servers = Servers::new();
    for id in ids(args, launcher.config(), 1) {
        servers = servers.add(app(args, &launcher, &id)?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let admin = launcher.config().admin_address();
    runtime.block_on(launcher.serve(servers, |running| greet(args, running, admin)))?;
    // Work that did not end by itself is not waited for.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Type of the servers that clients connect to: `connector`, unless a service over HTTP has the routes of that type.
fn type_of_connectors(config: &Config) -> &'static str {
    if config.backends.contains_key("connector") {
        "frontend"
    } else {
        "connector"
    }
}

/// The servers of the demo, with so many chat servers, or none if a service over HTTP is the chat.
fn ids(args: &DemoArgs, config: &Config, chats: usize) -> Vec<String> {
    let is_elsewhere = config.backends.contains_key("chat");
    let chats = if is_elsewhere { 0 } else { chats };
    let connectors = 1..=args.connector_ports.len();
    let mut ids = vec!["gate-1".to_owned()];
    ids.extend(connectors.map(|n| format!("connector-{n}")));
    ids.extend((1..=chats).map(|n| format!("chat-{n}")));
    ids
}

/// One of them.
fn app(args: &DemoArgs, launcher: &Launcher, id: &str) -> Result<App, Error> {
    let (server_type, n) = id.rsplit_once('-').unwrap_or((id, ""));
    let ports = &args.connector_ports;
    let port = n
        .parse::<usize>()
        .ok()
        .and_then(|n| ports.get(n.checked_sub(1)?));
    let backends = &launcher.config().backends;
    if backends.contains_key("connector") && !backends.contains_key("chat") {
        return Err("`[backends.connector]` needs `[backends.chat]` too: the demo's own chat servers know only users that its own connectors let in".into());
    }
    match (server_type, port) {
        ("gate", _) if n == "1" => gate(args, launcher, id),
        ("connector", Some(port)) => {
            let config = launcher.config();
            let own_type = type_of_connectors(config);
            let mut connector = frontend(args, launcher, (own_type, id), *port)?;
            connector.metadata(gate::CLIENT_PORT, port.to_string());
            if own_type == "connector" {
                entry::install(&mut connector, config);
            }
            for (server_type, backend) in config.http_backends()? {
                connector.http_backend(server_type, backend);
            }
            Ok(connector)
        }
        ("chat", _) if n.parse::<u16>().is_ok_and(|n| n > 0) => {
            let mut chat = App::new("chat", id);
            launcher.configure(&mut chat);
            chat::install(&mut chat);
            Ok(chat)
        }
        _ => Err(format!(
            "the demo has no server \"{id}\"; its servers are gate-1, connector-1 to connector-{} (--connector-ports), and chat-1, chat-2, ..",
            ports.len()
        )
        .into()),
    }
}

fn gate(args: &DemoArgs, launcher: &Launcher, id: &str) -> Result<App, Error> {
    let mut gate = frontend(args, launcher, ("gate", id), args.gate_port)?;
    let connectors = type_of_connectors(launcher.config());
    gate::install(&mut gate, connectors, args.public_host.clone());
    gate.component(page::Page::new(
        SocketAddr::new(args.host, args.page_port),
        args.gate_port,
        launcher.operations(),
    ));
    Ok(gate)
}

fn frontend(
    args: &DemoArgs,
    launcher: &Launcher,
    (server_type, id): (&str, &str),
    port: u16,
) -> Result<App, Error> {
    let mut app = App::new(server_type, id);
    launcher.configure(&mut app);
    app.set(codec(launcher)?).set(dictionary());
    let address = SocketAddr::new(args.host, port);
    app.listen_with(launcher.config().listen_config(address));
    Ok(app)
}

fn codec(launcher: &Launcher) -> Result<CodecConfig, Error> {
    let protos = Protos::new(Schema::parse(SERVER_PROTOS)?, Schema::parse(CLIENT_PROTOS)?);
    Ok(launcher.config().codec_config().protos(Arc::new(protos)))
}

/// The sample's `dictionary.json`; handlers of servers in the same process have codes anyway.
fn dictionary() -> DictionaryConfig {
    DictionaryConfig::default()
        .routes(["onChat", "onAdd", "onLeave"].map(str::to_owned).to_vec())
        .handlers(vec!["chat.chatHandler.send".to_owned()])
}

/// The host that people type.
fn shown_host(host: IpAddr) -> String {
    if host.is_unspecified() {
        return "localhost".to_owned();
    }
    SocketAddr::new(host, 0)
        .to_string()
        .trim_end_matches(":0")
        .to_owned()
}

/// The escape sequences for bold and plain text on a terminal.
fn bold(is_terminal: bool) -> (&'static str, &'static str) {
    if is_terminal {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    }
}

/// Says where to look.
fn greet(args: &DemoArgs, running: &Running, admin: Option<SocketAddr>) {
    let out = std::io::stdout();
    let (bold, plain) = bold(out.is_terminal());
    let shown = shown_host(args.host);
    let ports: Vec<String> = running
        .apps()
        .iter()
        .flat_map(|app| {
            app.local_addrs()
                .into_iter()
                .map(|address| (app.id(), address))
        })
        .map(|(id, address)| format!("  {id:<14} {shown}:{}", address.port()))
        .collect();
    let admin = admin.map_or_else(String::new, |address| {
        format!(
            "  {:<14} http://{address}   try: shaddock sessions\n",
            "admin"
        )
    });
    let text = format!(
        "\n{bold}shaddock demo is running{plain}\n\n  Open {bold}http://{shown}:{}{plain} in two windows and chat.\n\n{}\n{admin}\n  Ctrl-C stops it.\n\n",
        args.page_port,
        ports.join("\n"),
    );
    print_within(out, text, Duration::ZERO);
}
