//! Checks before the start: each mistake is a [`StartError`].

use std::sync::Arc;

use shaddock_protocol::{Codec, CodecConfig, Dictionary, MAX_BODY};

use super::{
    App, AppConfig, DictionaryConfig, StartError, info::MOST_METADATA, requirements::Requirements,
};
use crate::handler::HandlerTable;

/// Checks that the app has everything that its handlers and remotes require.
pub(super) fn check(app: &App) -> Result<(), StartError> {
    let look = |table: &HandlerTable, is_remote: bool| {
        for (short, entry) in table.entries() {
            let mut needs = Requirements::default();
            entry.handler.requirements(&mut needs);
            if let Some(reason) =
                needs.missing(is_remote, app.is_frontend(), |key| app.values.contains(key))
            {
                return Err(StartError::Requirement {
                    app: app.id().to_owned(),
                    route: format!("{}.{short}", app.server_type()),
                    reason,
                });
            }
        }
        Ok(())
    };
    look(&app.handlers, false)?;
    look(&app.remotes, true)?;
    check_hooks(app)
}

/// Checks that each hook that may be set once was set at most once.
fn check_hooks(app: &App) -> Result<(), StartError> {
    let (hooks, filters) = (&app.hooks, &app.filters);
    for route in hooks.users_only.iter().flatten() {
        let parts: Vec<_> = route.split('.').collect();
        if parts.len() != 3 || parts.iter().any(|part| part.trim().is_empty()) {
            return Err(StartError::ExceptionRoute {
                app: app.id().to_owned(),
                route: route.clone(),
            });
        }
        let own = route.strip_prefix(app.server_type());
        let short = own.and_then(|rest| rest.strip_prefix('.'));
        if short.is_some_and(|short| app.handlers.get(short).is_none()) {
            return Err(StartError::Exception {
                app: app.id().to_owned(),
                route: route.clone(),
            });
        }
    }
    let all = [
        ("check_client", hooks.client_check.both()),
        ("on_handshake", hooks.handshake.both()),
        ("before_bind", hooks.before_bind.both()),
        ("before_resume", hooks.before_resume.both()),
        ("error_handler", filters.own.error_handler.both()),
        ("global_error_handler", filters.global.error_handler.both()),
    ];
    for (hook, both) in all {
        if let Some([first, second]) = both {
            return Err(StartError::Twice {
                app: app.id().to_owned(),
                hook,
                first: first.to_string(),
                second: second.to_string(),
            });
        }
    }
    Ok(())
}

pub(super) fn codec_of(app: &App, routes: &[String]) -> Result<Codec, StartError> {
    let mut config = app
        .values
        .get::<CodecConfig>()
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default();
    if let Some(dictionary) = app.values.get::<DictionaryConfig>() {
        let handlers = routes.iter().chain(&dictionary.handlers);
        config.dictionary = Some(Arc::new(Dictionary::build(handlers, &dictionary.routes)?));
    }
    let codec = Codec::new(config);
    let length = codec.longest_answer();
    if length > MAX_BODY {
        return Err(StartError::HandshakeAnswer {
            app: app.id().to_owned(),
            length,
        });
    }
    Ok(codec)
}

/// Announces to frontends which routes are concurrent, and the time limits of handlers.
pub(super) fn announce_routes(app: &mut App, config: &AppConfig) -> Result<(), StartError> {
    let routes = || app.handlers.entries();
    let concurrent = routes().filter(|(_, entry)| entry.options.concurrent);
    app.info
        .announce_concurrent(concurrent.map(|(short, _)| short));
    let limited = routes().filter_map(|(short, entry)| Some((short, entry.options.timeout?)));
    app.info.announce_timeouts(config.handler_timeout, limited);
    let bytes = app.info.metadata_len();
    if bytes > MOST_METADATA {
        return Err(StartError::Metadata {
            app: app.id().to_owned(),
            bytes,
        });
    }
    Ok(())
}
