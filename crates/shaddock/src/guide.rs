//! The README and the guides of `docs/`, so that `cargo test --doc` compiles and runs their examples.
//!
//! Only tests see this module: the files are outside of the crate.

macro_rules! guides {
    ($($name:ident: $path:literal,)*) => {
        $(#[doc = include_str!(concat!("../../../", $path))] mod $name {})*
    };
}

guides! {
    readme: "README.md",
    readme_zh: "README.zh-CN.md",
    first_server: "docs/first-server.md",
    first_server_zh: "docs/zh-CN/first-server.md",
    sessions: "docs/sessions.md",
    sessions_zh: "docs/zh-CN/sessions.md",
    delivery: "docs/delivery.md",
    delivery_zh: "docs/zh-CN/delivery.md",
    channels: "docs/channels.md",
    channels_zh: "docs/zh-CN/channels.md",
    resume: "docs/resume.md",
    resume_zh: "docs/zh-CN/resume.md",
    bench: "docs/bench.md",
    bench_zh: "docs/zh-CN/bench.md",
    operations: "docs/operations.md",
    operations_zh: "docs/zh-CN/operations.md",
    http_backends: "docs/http-backends.md",
    http_backends_zh: "docs/zh-CN/http-backends.md",
    server_api: "docs/server-api.md",
    server_api_zh: "docs/zh-CN/server-api.md",
    console: "docs/console.md",
    console_zh: "docs/zh-CN/console.md",
    testing: "docs/testing.md",
    testing_zh: "docs/zh-CN/testing.md",
    timers: "docs/timers.md",
    timers_zh: "docs/zh-CN/timers.md",
    monitoring: "docs/monitoring.md",
    monitoring_zh: "docs/zh-CN/monitoring.md",
    cluster: "docs/cluster.md",
    scale: "docs/scale.md",
    scale_zh: "docs/zh-CN/scale.md",
    coming_from_pitaya: "docs/coming-from-pitaya.md",
    coming_from_pomelo: "docs/coming-from-pomelo.md",
    coming_from_pomelo_zh: "docs/zh-CN/coming-from-pomelo.md",
}
