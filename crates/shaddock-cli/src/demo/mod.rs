//! `shaddock demo`: Pomelo's chat sample on shaddock, in one process, with a page of its own.
//!
//! - `gate`: a server that tells clients which connector is theirs
//! - `entry`: the connectors, where clients log in
//! - `chat`: the rooms
//! - `page`: the web page and the sessions it shows
//!
//! Routes, bodies, dictionary and schemas are those of `NetEase/chatofpomelo-websocket`, so that its page and client work here.

mod chat;
mod entry;
mod gate;
mod page;

use std::{
    io::{IsTerminal as _, Write as _},
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use shaddock::{
    app::{DictionaryConfig, Running},
    launch::Launcher,
    prelude::*,
    wire::{CodecConfig, Protos, Schema},
};

use crate::{ConfigSource, commands::Outcome};

/// What clients send and receive in protobuf: the sample's `clientProtos.json` and `serverProtos.json`.
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
    /// Ports of the connectors
    #[arg(long, value_delimiter = ',', default_values_t = [3050, 3051])]
    connector_ports: Vec<u16>,
    /// Port of the web page
    #[arg(long, default_value_t = 3001)]
    page_port: u16,
}

pub(crate) fn run(args: &DemoArgs) -> Outcome {
    let mut launcher = Launcher::new(args.source.clone().sources().preset(HEARTBEAT))?;
    launcher.init_logs()?;
    let servers = servers(args, &launcher)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let admin = launcher.config().admin_address();
    runtime.block_on(launcher.serve(servers, |running| greet(args, running, admin)))?;
    // Work that did not end by itself is not waited for.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

type Error = Box<dyn std::error::Error + Send + Sync>;

fn servers(args: &DemoArgs, launcher: &Launcher) -> Result<Servers, Error> {
    if args.connector_ports.is_empty() {
        return Err("the demo needs at least one connector; see --connector-ports".into());
    }
    let codec = codec(launcher)?;
    let frontend = |server_type: &str, id: &str, port: u16| {
        let mut app = App::new(server_type, id);
        launcher.configure(&mut app);
        app.set(codec.clone()).set(dictionary());
        let address = SocketAddr::new(args.host, port);
        app.listen_with(launcher.config().listen_config(address));
        app
    };
    let mut gate = frontend("gate", "gate-1", args.gate_port);
    gate::install(&mut gate, args.public_host.clone());
    gate.component(page::Page::new(
        SocketAddr::new(args.host, args.page_port),
        args.gate_port,
        launcher.operations(),
    ));
    let mut servers = Servers::new().add(gate);
    for (n, port) in (1..).zip(&args.connector_ports) {
        let mut connector = frontend("connector", &format!("connector-{n}"), *port);
        entry::install(&mut connector, *port, launcher.config());
        servers = servers.add(connector);
    }
    let mut chat = App::new("chat", "chat-1");
    launcher.configure(&mut chat);
    chat::install(&mut chat);
    Ok(servers.add(chat))
}

fn codec(launcher: &Launcher) -> Result<CodecConfig, Error> {
    let protos = Protos::new(Schema::parse(SERVER_PROTOS)?, Schema::parse(CLIENT_PROTOS)?);
    Ok(CodecConfig {
        protos: Some(Arc::new(protos)),
        ..launcher.config().codec_config()
    })
}

/// The sample's `dictionary.json`; handlers have codes anyway.
fn dictionary() -> DictionaryConfig {
    DictionaryConfig {
        routes: ["onChat", "onAdd", "onLeave"].map(str::to_owned).to_vec(),
        handlers: Vec::new(),
    }
}

/// Says where to look.
fn greet(args: &DemoArgs, running: &Running, admin: Option<SocketAddr>) {
    let mut out = std::io::stdout();
    let (bold, plain) = if out.is_terminal() {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    let shown = if args.host.is_unspecified() {
        "localhost".to_owned()
    } else {
        SocketAddr::new(args.host, 0)
            .to_string()
            .trim_end_matches(":0")
            .to_owned()
    };
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
    // A closed pipe is no reason to end.
    let _ = writeln!(
        out,
        "\n{bold}shaddock demo is running{plain}\n\n  Open {bold}http://{shown}:{}{plain} in two windows and chat.\n\n{}\n{admin}\n  Ctrl-C stops it.\n",
        args.page_port,
        ports.join("\n"),
    );
}
