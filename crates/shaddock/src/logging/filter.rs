//! The text of a filter.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// Whether `text` is a filter; the message says what is wrong.
pub(crate) fn check_filter(text: &str) -> Result<(), String> {
    parse_filter(text).map(drop)
}

/// Parses a filter.
pub(super) fn parse_filter(text: &str) -> Result<Targets, String> {
    // A lone word that is no level would be taken for a module, and silence all others.
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty() && !part.contains('='))
    {
        if part.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "\"{part}\" is not a level; write error, warn, info, debug, trace or off, or \"{part}=debug\" for a module"
            ));
        }
    }
    text.parse().map_err(|error| {
        format!(
            "\"{text}\" is not a filter ({error}); write a level, or \"info,shaddock_net=debug\""
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for text in [
            "info",
            "off",
            "info,shaddock_net=debug",
            "shaddock=trace,warn",
            "",
        ] {
            assert!(check_filter(text).is_ok(), "{text}");
        }
        assert!(
            check_filter("verbose")
                .unwrap_err()
                .contains("\"verbose=debug\"")
        );
        assert!(
            check_filter("info,shaddock=loud")
                .unwrap_err()
                .contains("is not a filter")
        );
    }
}
