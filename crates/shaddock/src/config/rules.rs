//! Rules for the values of keys. The text of an error says how to write the value.

use shaddock_cluster::Address;

use super::{
    section::within,
    value::{SecretTexts, Time},
};
use crate::backend::BackendEvent;

pub(super) fn address_or_empty(text: &str) -> Result<(), String> {
    if text.is_empty() || text.parse::<std::net::SocketAddr>().is_ok() {
        return Ok(());
    }
    Err(format!(
        "\"{text}\" is not a valid IP:PORT; write \"127.0.0.1:3005\", \"0.0.0.0:3005\" or \"[::1]:3005\""
    ))
}

pub(super) fn address_header(text: &str) -> Result<(), String> {
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
        "\"{text}\" is not a valid header name; write \"x-forwarded-for\""
    ))
}

pub(super) fn tokens(list: &[String]) -> Result<(), String> {
    match list
        .iter()
        .find(|name| !shaddock_net::is_token(name.as_bytes()))
    {
        None => Ok(()),
        Some(name) => Err(format!(
            "\"{name}\" is not a valid subprotocol; write letters, digits and `-`, `.` or `_`, such as \"pomelo\""
        )),
    }
}

pub(super) fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("the name must not be empty".to_owned());
    }
    Ok(())
}

pub(super) fn short_routes(list: &[String]) -> Result<(), String> {
    let is_short = |route: &str| {
        let parts: Vec<&str> = route.split('.').collect();
        parts.len() == 2 && parts.iter().all(|part| !part.is_empty())
    };
    match list.iter().find(|route| !is_short(route)) {
        None => Ok(()),
        Some(route) => Err(format!(
            "\"{route}\" is not a route `handler.method`; omit the server type"
        )),
    }
}

pub(super) fn event_names(list: &[String]) -> Result<(), String> {
    let known = BackendEvent::ALL.map(BackendEvent::name);
    match list.iter().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(format!(
            "\"{name}\" is not an event; the events are `{}`",
            known.join("`, `")
        )),
    }
}

pub(super) fn server_name(text: &str) -> Result<(), String> {
    shaddock_cluster::ServerId::new(text)
        .map(drop)
        .map_err(|error| error.to_string())
}

pub(super) fn url_or_empty(text: &str) -> Result<(), String> {
    let schemes = ["ws://", "wss://", "tcp://", "tls://"];
    if text.len() > 256 {
        return Err("this is longer than 256 characters".to_owned());
    }
    if text.is_empty() || schemes.iter().any(|scheme| text.starts_with(scheme)) {
        return Ok(());
    }
    Err(format!(
        "\"{text}\" is not an address for clients; write it with its scheme, such as \"wss://c1.example.com\""
    ))
}

pub(super) fn id_or_empty(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    server_name(text)
}

pub(super) fn some(list: &[Address]) -> Result<(), String> {
    if list.is_empty() || list.iter().any(Address::is_empty) {
        return Err("write at least one address, and no empty one".to_owned());
    }
    Ok(())
}

pub(super) fn prefix(text: &str) -> Result<(), String> {
    if text.is_empty() || text.ends_with('/') {
        return Ok(());
    }
    Err(format!("\"{text}\" must end in `/`"))
}

pub(super) fn lease(time: Time) -> Result<(), String> {
    if time.0.subsec_nanos() != 0 {
        return Err(format!("{time} is not a number of whole seconds"));
    }
    within(Time::secs(1), Time::secs(3600))(&time)
}

pub(super) fn token(text: &str) -> Result<(), String> {
    let fine =
        text.is_empty() || text.len() >= 16 && text.bytes().all(|byte| byte.is_ascii_graphic());
    fine.then_some(()).ok_or_else(|| {
        "a token needs at least 16 visible ASCII characters; try `openssl rand -hex 32`".to_owned()
    })
}

pub(super) fn list_of_tokens(list: &SecretTexts) -> Result<(), String> {
    list.0.iter().try_for_each(|one| {
        if one.is_empty() {
            return Err("a token must not be empty; remove it".to_owned());
        }
        token(one.expose())
    })
}

pub(super) fn whole_seconds(time: Time) -> Result<(), String> {
    if time.0.subsec_nanos() != 0 {
        return Err(format!(
            "{time} is not a number of whole seconds, which is all that C and Go clients can read"
        ));
    }
    within(Time::secs(0), Time::secs(3600))(&time)
}

/// Checks that each is an origin as browsers send it, because origins are compared literally.
pub(super) fn origins(list: &[String]) -> Result<(), String> {
    list.iter().try_for_each(|origin| check_origin(origin))
}

fn check_origin(origin: &str) -> Result<(), String> {
    // Sent by pages without an origin of their own, such as pages from a file.
    if origin == "null" {
        return Ok(());
    }
    if origin == "*" {
        return Err("\"*\" is not an origin; write `origins = []` to allow all pages".to_owned());
    }
    if origin.contains('*') {
        return Err(format!(
            "\"{origin}\" has a wildcard, which is not supported; write every origin, such as \"https://play.example.com\""
        ));
    }
    let Some((scheme, rest)) = origin.split_once("://") else {
        return Err(format!(
            "\"{origin}\" is not an origin; write it with its scheme, \"https://{origin}\""
        ));
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || origin.contains(char::is_whitespace) || host.contains('@') {
        return Err(format!(
            "\"{origin}\" is not an origin; write \"https://play.example.com\" or \"https://play.example.com:8443\""
        ));
    }
    if !origin.is_ascii() {
        return Err(format!(
            "browsers never send \"{origin}\" as the origin of a page: they write names outside of ASCII as \"xn--..\"; write it that way"
        ));
    }
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "ws" => "http".to_owned(),
        "wss" => "https".to_owned(),
        other => other.to_owned(),
    };
    let host = match scheme.as_str() {
        "http" => host.strip_suffix(":80"),
        "https" => host.strip_suffix(":443"),
        _ => None,
    }
    .unwrap_or(host);
    let right = format!("{scheme}://{host}");
    if right.eq_ignore_ascii_case(origin) {
        return Ok(());
    }
    Err(format!(
        "browsers never send \"{origin}\" as the origin of a page (no path, no slash at the end, no usual port, not `ws`); write \"{right}\""
    ))
}
