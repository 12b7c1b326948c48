//! Finds the known name that a misspelt name was probably meant to be.

/// The name of `known` closest to `name`, if at most every third letter differs.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A key in the wrong section is a common mistake: then the last part matches, and that outweighs the distance.
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let wanted = last(name);
    let (candidate, distance) = known
        .map(|candidate| {
            let whole = distance(name, candidate);
            let part = distance(&wanted, &last(candidate)).saturating_add(1);
            (candidate, whole.min(part), whole)
        })
        // Of two that are as close, the one that is closer as a whole.
        .min_by_key(|&(_, distance, whole)| (distance, whole))
        .map(|(candidate, distance, _)| (candidate, distance))?;
    (distance <= (wanted.chars().count() / 3).max(2)).then_some(candidate)
}

/// The number of insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = [
            "session.single_session",
            "session.outbox_bytes",
            "listen.max_connections",
            "log.filter",
        ];
        let find = |name| nearest(name, known.into_iter());
        assert_eq!(
            find("session.singel_session"),
            Some("session.single_session")
        );
        assert_eq!(
            find("session.single-session"),
            Some("session.single_session")
        );
        assert_eq!(find("sesion.outbox_bytes"), Some("session.outbox_bytes"));
        assert_eq!(
            find("access.max_connections"),
            Some("listen.max_connections")
        );
        assert_eq!(find("max_connections"), Some("listen.max_connections"));
        assert_eq!(find("weather.tomorrow"), None);
        // `SHADDOCK__LISTEN__ADDRESS`
        let known = ["admin.address", "listen.address", "tls.address"];
        let found = nearest("_listen.address", known.into_iter());
        assert_eq!(found, Some("listen.address"));
    }
}
