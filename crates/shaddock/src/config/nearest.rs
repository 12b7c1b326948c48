//! The known name that somebody who misspelt one probably meant.

/// The closest of `known` to `name`, if it is close at all: every third letter may be wrong.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A key under the wrong section is a common slip: there the last part is right, and that counts for more than distance.
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let wanted = last(name);
    let (candidate, distance) = known
        .map(|candidate| {
            let whole = distance(name, candidate);
            let part = distance(&wanted, &last(candidate)).saturating_add(1);
            (candidate, whole.min(part))
        })
        .min_by_key(|&(_, distance)| distance)?;
    (distance <= (wanted.chars().count() / 3).max(2)).then_some(candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
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
    }
}
