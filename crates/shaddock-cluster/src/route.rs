//! Routes between servers: `type.service.method` or `service.method`.

/// Splits a route into its type, if it has one, and the short route that a receiver looks up.
///
/// # Errors
/// The texts of Pitaya: a part is empty or only white space, or there are not two or three parts.
pub fn split_route(route: &str) -> Result<(Option<&str>, &str), &'static str> {
    // Most routes, at the cost of a comparison for each byte: no white space, and no character that may be some.
    let (bytes, mut dots, mut first, mut after_dot) = (route.as_bytes(), 0, 0, 0);
    for (place, byte) in bytes.iter().enumerate() {
        if *byte == b'.' && place > after_dot {
            first = if dots == 0 { place } else { first };
            (dots, after_dot) = (dots + 1, place + 1);
        } else if !byte.is_ascii_graphic() || *byte == b'.' {
            return split_any(route);
        }
    }
    match dots {
        1 if after_dot < bytes.len() => Ok((None, route)),
        2 if after_dot < bytes.len() => Ok((Some(&route[..first]), &route[first + 1..])),
        _ => split_any(route),
    }
}

/// The rule itself, for the routes that need it.
#[cold]
fn split_any(route: &str) -> Result<(Option<&str>, &str), &'static str> {
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

    /// All short texts of some characters.
    #[test]
    fn the_fast_path_gives_the_same_result() {
        let letters = ["a", "b", ".", " ", "\t", "\u{e9}", "\u{3000}", "\0"];
        let mut texts = vec![String::new()];
        for length in 0..6 {
            for text in &texts {
                assert_eq!(split_route(text), split_any(text), "{text:?}");
            }
            if length < 5 {
                texts = texts
                    .iter()
                    .flat_map(|text| letters.map(|letter| format!("{text}{letter}")))
                    .collect();
            }
        }
        for text in ["abc.def.ghi", "abc.def", "..", "a.b.c.d", "a.b.", "abc"] {
            assert_eq!(split_route(text), split_any(text), "{text:?}");
        }
    }

    #[test]
    fn vectors() {
        let vectors = crate::tests::vectors::vectors();
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
