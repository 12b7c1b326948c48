//! Routes between servers: `type.service.method` or `service.method`.

/// Splits a route into its type, if it has one, and the short route that a receiver looks up.
///
/// # Errors
/// The texts of Pitaya: a part is empty or only white space, or there are not two or three parts.
pub fn split_route(route: &str) -> Result<(Option<&str>, &str), &'static str> {
    if route.split('.').any(|part| part.trim().is_empty()) {
        return Err("route field can not be empty");
    }
    match route.bytes().filter(|b| *b == b'.').count() {
        1 => Ok((None, route)),
        2 => Ok(route
            .split_once('.')
            .map_or((None, route), |(server_type, short)| {
                (Some(server_type), short)
            })),
        _ => Err("invalid route"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors() {
        let vectors = crate::vectors::vectors();
        for v in vectors["routes"].as_array().unwrap() {
            let route = v["route"].as_str().unwrap();
            if let Some(error) = v["error"].as_str() {
                assert_eq!(split_route(route), Err(error), "{route:?}");
            } else {
                let server_type = v["type"].as_str().filter(|t| !t.is_empty());
                assert_eq!(
                    split_route(route),
                    Ok((server_type, v["short"].as_str().unwrap())),
                    "{route:?}"
                );
            }
        }
    }
}
