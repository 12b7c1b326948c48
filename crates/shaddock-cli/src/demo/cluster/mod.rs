//! `shaddock demo --cluster`: every server of the demo as a process of its own, on NATS and etcd.
//!
//! The parent starts NATS and etcd if none are configured (`backing`), then one child for each server (`fleet`), waits until every child
//! sees all others in discovery, and then prints their logs. It does not restart servers: a server that was killed stays away until an
//! operator runs `shaddock demo --only SERVER`.
//!
//! Every child has a *lifeline*: its standard input is a pipe of which the parent holds the other end. When that end closes, the child
//! stops as after SIGTERM (`lifeline`). So the parent stops them in order by letting go one lifeline after the other, and if the parent
//! dies, however that may be, the kernel closes them all and nothing is left behind. NATS and etcd know no lifelines, so each of them is
//! the child of a *keeper* that has one (`keeper`).
//!
//! Children are in process groups of their own. A Ctrl-C in the terminal therefore reaches the parent alone, which knows the order.

mod backing;
mod fleet;
mod keeper;
mod lifeline;
mod only;
mod ports;
mod screen;

use std::{ffi::OsString, io::IsTerminal as _, process::ExitCode, time::Duration};

use clap::Args;
use shaddock::{
    config::{Config, LogFormat, Sources},
    signals::{EndSignals, survive_user_signals},
};
use tokio::process::Command;

use self::{
    backing::Backing,
    fleet::{Fleet, Kind, News},
    ports::free_address,
    screen::Screen,
};
pub(crate) use self::{
    keeper::{KeepArgs, keep},
    only::run_one,
};
use super::{DemoArgs, Error, HEARTBEAT, bold, ids, shown_host};
use crate::{commands::Outcome, print_within};

/// How long a server that was killed is believed to be there. Shorter than the default, because people sit and watch.
const LEASE: &str = "cluster.lease_ttl=5s";
const NATS: &str = "cluster.mode=nats";
/// Events of the demo suffice for its readers.
const LOGS: &str = "log.filter=info,async_nats=warn";
/// Chat servers, which share the rooms.
const CHATS: usize = 2;
/// How long all servers together may take to start.
const START: Duration = Duration::from_secs(60);
/// How long servers may take to stop on top of `drain.deadline`.
const SLACK: Duration = Duration::from_secs(5);

/// The settings that the parent passes to its children.
#[derive(Debug, Args)]
pub(crate) struct ChildArgs {
    /// Stop when standard input ends
    #[arg(long, hide = true)]
    lifeline: bool,
    /// Say "ready" on standard output when these servers are in discovery
    #[arg(long, hide = true, value_delimiter = ',')]
    expect: Vec<String>,
}

/// The configuration of the demo as a cluster.
fn sources(args: &DemoArgs) -> Sources {
    let sources = args.source.clone().sources();
    [HEARTBEAT, NATS, LEASE, LOGS]
        .into_iter()
        .fold(sources, Sources::preset)
}

/// The parent.
pub(super) fn run(args: &DemoArgs) -> Outcome {
    let config = Config::load(&sources(args))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Their end would leave the children without a parent.
        survive_user_signals()?;
        let mut signals = EndSignals::new()?;
        let screen = Screen::new()?;
        let mut fleet = Fleet::new(screen.clone());
        let parent = Parent {
            args,
            config: &config,
        };
        let served = tokio::select! {
            served = parent.serve(&mut fleet) => served,
            signal = signals.next() => {
                let name = signal.name();
                fleet.screen().print(&format!("{name}: stopping, clients first; a second signal ends the demo immediately"));
                Ok(())
            }
        };
        let patience = config.drain.deadline.0 + SLACK;
        tokio::select! {
            () = fleet.stop(patience) => {}
            signal = signals.next() => {
                let name = signal.name();
                fleet.screen().print(&format!("{name} again: ending immediately"));
                fleet.kill().await;
                screen.flush();
                return Ok(ExitCode::FAILURE);
            }
        }
        screen.flush();
        served.map(|()| ExitCode::SUCCESS)
    })
}

struct Parent<'a> {
    args: &'a DemoArgs,
    config: &'a Config,
}

/// A server that will be a child.
struct Plan {
    id: String,
    admin: String,
    /// The flags that make it a server of this cluster.
    flags: Vec<OsString>,
}

impl Parent<'_> {
    /// Starts everything, and watches it until there is nothing left to watch.
    async fn serve(&self, fleet: &mut Fleet) -> Result<(), Error> {
        let backing = Backing::start(self.config, fleet).await?;
        let plans = self.plans(&backing)?;
        for plan in &plans {
            self.launch(fleet, plan, &plans)?;
        }
        match tokio::time::timeout(START, until_ready(fleet, plans.len())).await {
            Ok(ready) => ready?,
            Err(_) => {
                return Err(format!("the servers did not find each other within {START:?}").into());
            }
        }
        self.greet(fleet, &plans, &backing);
        watch(fleet, &plans).await
    }

    fn plans(&self, backing: &Backing) -> Result<Vec<Plan>, Error> {
        let ids = ids(self.args, self.config, CHATS);
        let configured = self.config.admin_address();
        // Held together, so that no port is chosen twice.
        let mut held = Vec::new();
        let mut plans = Vec::new();
        for id in ids {
            let admin = match configured {
                None => String::new(),
                // The page and the command look where they always do.
                Some(address) if id.starts_with("gate-") => address.to_string(),
                Some(address) => {
                    let (listener, address) = free_address(address.ip())?;
                    held.push(listener);
                    address.to_string()
                }
            };
            let flags = self.flags(&id, &admin, backing);
            plans.push(Plan { id, admin, flags });
        }
        Ok(plans)
    }

    /// The arguments of `shaddock` that make one server of this cluster.
    fn flags(&self, id: &str, admin: &str, backing: &Backing) -> Vec<OsString> {
        let args = self.args;
        let mut flags: Vec<OsString> = vec!["demo".into(), "--only".into(), id.into()];
        let mut add = |flag: &str, value: OsString| flags.extend([flag.into(), value]);
        if let Some(file) = &args.source.config {
            add("--config", file.into());
        }
        if !id.starts_with("chat-") {
            add("--host", args.host.to_string().into());
            let ports: Vec<String> = args.connector_ports.iter().map(u16::to_string).collect();
            add("--connector-ports", ports.join(",").into());
        }
        if id.starts_with("gate-") {
            add("--gate-port", args.gate_port.to_string().into());
            add("--page-port", args.page_port.to_string().into());
            if let Some(host) = &args.public_host {
                add("--public-host", host.into());
            }
        }
        let own = [NATS.to_owned(), format!("admin.address={admin}")];
        // The one of the gate only.
        let is_admin = |setting: &&String| setting.starts_with("admin.address=");
        let settings = args.source.settings.iter().filter(|one| !is_admin(one));
        for setting in settings.chain(backing.settings()).chain(&own) {
            add("--set", setting.into());
        }
        flags
    }

    fn launch(&self, fleet: &mut Fleet, plan: &Plan, all: &[Plan]) -> Result<(), Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(&plan.flags).arg("--lifeline");
        let expected: Vec<&str> = all.iter().map(|plan| plan.id.as_str()).collect();
        command.arg("--expect").arg(expected.join(","));
        // It is people who read this.
        if matches!(self.config.log.format, LogFormat::Auto) {
            command.args(["--set", "log.format=human"]);
        }
        let kind = if plan.id.starts_with("chat-") {
            Kind::Backend
        } else {
            Kind::Frontend
        };
        fleet.spawn(&plan.id, kind, &mut command)
    }

    fn greet(&self, fleet: &Fleet, plans: &[Plan], backing: &Backing) {
        let args = self.args;
        let out = std::io::stdout();
        let (bold, plain) = bold(out.is_terminal());
        let shown = shown_host(args.host);
        let pid = |id: &str| fleet.pid(id).unwrap_or_default();
        let mut rows = Vec::new();
        for plan in plans {
            let port = match plan.id.rsplit_once('-') {
                Some(("gate", _)) => Some(args.gate_port),
                Some(("connector", n)) => n
                    .parse::<usize>()
                    .ok()
                    .and_then(|n| args.connector_ports.get(n.checked_sub(1)?).copied()),
                _ => None,
            };
            let address = port.map_or_else(String::new, |port| format!("{shown}:{port}"));
            let admin = if plan.admin.is_empty() {
                String::new()
            } else {
                format!("admin {}", plan.admin)
            };
            rows.push(format!(
                "  {:<12} pid {:<8} {address:<22} {admin}",
                plan.id,
                pid(&plan.id)
            ));
        }
        for (name, pid, address) in backing.started() {
            rows.push(format!("  {name:<12} pid {pid:<8} {address}"));
        }
        let rows: Vec<&str> = rows.iter().map(|row| row.trim_end()).collect();
        let kill = fleet.pid("chat-1").map_or_else(String::new, |pid| {
            format!("       kill -9 {pid}   (the rooms of chat-1 move to chat-2)\n")
        });
        let logs = backing.logs().map_or_else(String::new, |directory| {
            format!("  NATS and etcd log into {}\n", directory.display())
        });
        let text = format!(
            "\n{bold}shaddock demo is running as a cluster{plain}\n\n  Open {bold}http://{shown}:{}{plain} in two windows and chat.\n\n{}\n\n  \
             Try: shaddock servers\n       shaddock sessions\n       shaddock drain connector-2\n{kill}{logs}\n  \
             Ctrl-C stops all of it.\n\n",
            args.page_port,
            rows.join("\n"),
        );
        print_within(out, text, Duration::ZERO);
    }
}

/// Waits until every server sees all others.
async fn until_ready(fleet: &mut Fleet, count: usize) -> Result<(), Error> {
    let mut ready = 0;
    while ready < count {
        match fleet.next().await {
            News::Said(_, line) if line == only::READY => ready += 1,
            News::Said(..) => {}
            News::Ended(name, how) => return Err(format!("{name} did not start: it {how}").into()),
        }
    }
    Ok(())
}

/// Reports who ends. Done when no server is left.
async fn watch(fleet: &mut Fleet, plans: &[Plan]) -> Result<(), Error> {
    while fleet.has_servers() {
        let News::Ended(name, how) = fleet.next().await else {
            continue;
        };
        match plans.iter().find(|plan| plan.id == name) {
            Some(plan) => {
                let again = screen::command_line("shaddock", &plan.flags);
                fleet.screen().print(&format!(
                    "{name} {how}. The others continue. To restart it, in another terminal:\n  {again}"
                ));
            }
            None => fleet.screen().print(&format!(
                "{name} {how}. The servers continue as docs/cluster.md describes; it is not restarted."
            )),
        }
    }
    Err("no server is left".into())
}
