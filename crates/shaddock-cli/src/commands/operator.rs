//! The source of responses for an operator: the admin server of any process, or the cluster itself.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    task::Poll,
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use shaddock::{
    admin::{CallAnswer, JobStatus, KickRequest, SessionInfo, SessionQuery},
    config::Config,
    operators::{
        ClusterView, DrainRequest, DrainStarted, KickOutcome, OperatorError, ServerOverview,
        ServerStatus, SessionOverview, Unanswered, WhyUnanswered,
    },
    signals::EndSignals,
};

use super::{
    Outcome,
    admin::{Admin, Failure, escape},
    table::{print_line, printable_json},
};
use crate::ConfigSource;

/// How long joining the cluster may take.
const JOIN: Duration = Duration::from_secs(10);
/// Operators of one process have its admin server. Without one there is only the cluster, unless the configuration says otherwise.
const NATS: &str = "cluster.mode=nats";

/// The server to query. By default the admin server of the configuration, or its cluster if that server does not respond.
#[derive(Debug, Args)]
pub(super) struct Target {
    #[command(flatten)]
    source: ConfigSource,
    /// Address of the admin server of any process of the cluster; default: `admin.address` of the configuration, or the cluster
    /// itself if that server does not respond
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["nats", "etcd"])]
    admin: Option<String>,
    /// Token of the admin server; default: `admin.token` of the configuration (SHADDOCK_ADMIN__TOKEN)
    #[arg(long)]
    token: Option<String>,
    /// Ask the cluster itself, over these NATS servers
    #[arg(long, value_name = "URL,..")]
    nats: Option<String>,
    /// Ask the cluster itself, which is listed at these etcd servers
    #[arg(long, value_name = "HOST:PORT,..")]
    etcd: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs a command that queries the cluster. If it joined the cluster, it always leaves it at the end.
pub(super) fn run(target: &Target, command: impl AsyncFnOnce(&Operator) -> Outcome) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let mut signals = EndSignals::new()?;
        let operator = tokio::select! {
            opened = Operator::open(target) => opened?,
            signal = signals.next() => return Ok(ExitCode::from(signal.status())),
        };
        let signal = async { ExitCode::from(signals.next().await.status()) };
        let outcome = to_the_end(command(&operator), signal).await;
        tokio::select! {
            () = operator.leave() => {}
            // Again: at once.
            _ = signals.next() => {}
        }
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    // Work that has not ended is not awaited.
    runtime.shutdown_background();
    outcome
}

/// The outcome of a command: its own, that of a signal, or its panic.
async fn to_the_end(
    command: impl Future<Output = Outcome>,
    signal: impl Future<Output = ExitCode>,
) -> std::thread::Result<Outcome> {
    let mut command = Box::pin(command);
    let guarded = std::future::poll_fn(move |task| {
        let polled = catch_unwind(AssertUnwindSafe(|| command.as_mut().poll(task)));
        polled.map_or_else(|panic| Poll::Ready(Err(panic)), |polled| polled.map(Ok))
    });
    tokio::select! {
        outcome = guarded => outcome,
        code = signal => Ok(Ok(code)),
    }
}

/// The source of responses.
pub(super) enum Operator {
    Admin(Admin),
    Joined(ClusterView),
}

impl From<OperatorError> for Failure {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::NoServer { .. } | OperatorError::NoSession { .. } => {
                Self::NotFound(error.to_string())
            }
            other => Self::Other(other.into()),
        }
    }
}

impl Operator {
    async fn open(target: &Target) -> Result<Self, Failure> {
        let mut source = target.source.clone();
        for (key, value) in [
            ("nats_urls", &target.nats),
            ("etcd_endpoints", &target.etcd),
        ] {
            if let Some(value) = value {
                source.settings.push(format!("cluster.{key}={value}"));
            }
        }
        let config = Config::load(&source.sources().preset(NATS));
        let config = config.map_err(|error| Failure::Other(error.into()))?;
        if target.nats.is_some() || target.etcd.is_some() {
            return Self::join(&config).await;
        }
        let given = target.admin.clone();
        let Some(address) = given.or_else(|| reachable_admin(&config)) else {
            return Self::join(&config).await;
        };
        let token = target.token.clone();
        let admin = Admin {
            address,
            token: token.unwrap_or_else(|| config.admin.token.expose().to_owned()),
        };
        // There is no other one to ask instead: it has the time that its answer takes.
        if target.admin.is_some() {
            return Ok(Self::Admin(admin));
        }
        match admin.probe().await {
            Ok(()) => Ok(Self::Admin(admin)),
            Err(absent) => Self::join(&config)
                .await
                .map_err(|error| Failure::NoServer(format!("{absent}\n{error}"))),
        }
    }

    async fn join(config: &Config) -> Result<Self, Failure> {
        if !config.is_clustered() {
            let text = "the servers of this configuration share one process (`cluster.mode`), so only its admin server can be queried";
            return Err(Failure::NoServer(text.to_owned()));
        }
        let unreachable =
            |why: String| Failure::NoServer(format!("cannot join the cluster: {why}"));
        let cluster = config
            .cluster()
            .map_err(|error| unreachable(error.to_string()))?;
        let joined = ClusterView::join(&*cluster, config.admin.view_config());
        match tokio::time::timeout(JOIN, joined).await {
            Ok(Ok(view)) => Ok(Self::Joined(view)),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable("timeout".to_owned())),
        }
    }

    async fn leave(self) {
        if let Self::Joined(view) = self {
            view.leave().await;
        }
    }

    pub(super) async fn servers(&self) -> Result<ServerOverview, Failure> {
        match self {
            Self::Admin(admin) => admin.get("/api/cluster/servers").await,
            Self::Joined(view) => Ok(view.servers().await),
        }
    }

    /// `None`: it is not there.
    pub(super) async fn server(&self, id: &str) -> Result<Option<ServerStatus>, Failure> {
        match self {
            Self::Admin(admin) => {
                let path = format!("/api/cluster/servers/{}", escape(id));
                match admin.get(&path).await {
                    Ok(server) => Ok(Some(server)),
                    Err(Failure::NotFound(_)) => Ok(None),
                    Err(failure) => Err(failure),
                }
            }
            Self::Joined(view) => Ok(view.server(id).await),
        }
    }

    pub(super) async fn sessions(&self, query: &SessionQuery) -> Result<SessionOverview, Failure> {
        match self {
            Self::Admin(admin) => {
                let path = format!("/api/cluster/sessions{}", query_text(query)?);
                admin.get(&path).await
            }
            Self::Joined(view) => Ok(view.sessions(query).await?),
        }
    }

    pub(super) async fn session(&self, sid: &str) -> Result<SessionInfo, Failure> {
        match self {
            Self::Admin(admin) => {
                let path = format!("/api/cluster/sessions/{}", escape(sid));
                admin.get(&path).await
            }
            Self::Joined(view) => Ok(view.session(sid).await?),
        }
    }

    pub(super) async fn kick(&self, request: &KickRequest) -> Result<KickOutcome, Failure> {
        match self {
            Self::Admin(admin) => admin.post("/api/cluster/kick", request).await,
            Self::Joined(view) => Ok(view.kick(request).await?),
        }
    }

    /// Commands of the server API, which only an admin server has.
    pub(super) async fn call(
        &self,
        request: &serde_json::Value,
        key: Option<&str>,
    ) -> Result<CallAnswer, Failure> {
        self.admin()?
            .post_once("/api/cluster/call", request, key)
            .await
    }

    pub(super) async fn job(&self, id: &str) -> Result<JobStatus, Failure> {
        let path = format!("/api/cluster/jobs/{}", escape(id));
        self.admin()?.get(&path).await
    }

    fn admin(&self) -> Result<&Admin, Failure> {
        match self {
            Self::Admin(admin) => Ok(admin),
            Self::Joined(_) => {
                let text = "no admin server responds, and the server API requires one; set its address with `--admin`";
                Err(Failure::NoServer(text.to_owned()))
            }
        }
    }

    pub(super) async fn drain(&self, request: &DrainRequest) -> Result<DrainStarted, Failure> {
        match self {
            Self::Admin(admin) => admin.post("/api/cluster/drain", request).await,
            Self::Joined(view) => Ok(view.drain(request).await?),
        }
    }
}

/// A server that listens everywhere is reached on loopback from here.
fn reachable_admin(config: &Config) -> Option<String> {
    let mut address = config.admin_address()?;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    Some(address.to_string())
}

/// The query as part of a URL.
fn query_text(query: &SessionQuery) -> Result<String, Failure> {
    let fields = serde_json::to_value(query).map_err(|error| Failure::Other(error.into()))?;
    let mut text = String::new();
    for (key, value) in fields.as_object().into_iter().flatten() {
        let value = match value {
            serde_json::Value::String(value) => value.clone(),
            other => other.to_string(),
        };
        let start = if text.is_empty() { "?" } else { "&" };
        text.extend([start, key, "=", &escape(&value)]);
    }
    Ok(text)
}

/// Says on standard error who did not answer. True if one of them may have what was asked for.
pub(super) fn warn(unanswered: &[Unanswered]) -> bool {
    for one in unanswered {
        eprintln!("shaddock: {}: {}", one.server, one.reason);
    }
    unanswered.iter().any(|one| {
        matches!(
            one.why,
            WhyUnanswered::Silent | WhyUnanswered::Failed | WhyUnanswered::Unknown
        )
    })
}

pub(super) fn print_json(value: &impl Serialize) -> Outcome {
    print_line(&printable_json(&serde_json::to_string(value)?));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whatever_a_command_ends_with_it_ends() {
        type Command = std::pin::Pin<Box<dyn Future<Output = Outcome>>>;
        let commands: [(&str, Command); 4] = [
            ("done", Box::pin(async { Ok(ExitCode::SUCCESS) })),
            ("fails", Box::pin(async { Err("no".into()) })),
            (
                "panics",
                Box::pin(async { panic!("expected in this test") }),
            ),
            ("waits", Box::pin(std::future::pending())),
        ];
        for (name, command) in commands {
            let signal = async {
                if name != "waits" {
                    std::future::pending::<()>().await;
                }
                ExitCode::from(130)
            };
            let ended = match to_the_end(command, signal).await {
                Ok(Ok(code)) if code == ExitCode::from(130) => "waits",
                Ok(Ok(_)) => "done",
                Ok(Err(_)) => "fails",
                Err(_) => "panics",
            };
            assert_eq!(ended, name);
        }
    }

    #[test]
    fn a_query_becomes_part_of_a_url() {
        let mut query = SessionQuery::default();
        assert_eq!(query_text(&query).unwrap(), "");
        query.uid = Some("ann*lobby".to_owned());
        assert_eq!(query_text(&query).unwrap(), "?uid=ann%2Alobby");
        query.limit = Some(2);
        let text = query_text(&query).unwrap();
        let (first, second) = text[1..].split_once('&').unwrap();
        let mut fields = [first, second];
        fields.sort_unstable();
        assert_eq!(fields, ["limit=2", "uid=ann%2Alobby"]);
    }
}
