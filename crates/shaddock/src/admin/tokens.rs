//! Tokens and their scopes.

use ring::digest;

use crate::config::{AdminSettings, SecretTexts};

/// The permissions of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scope {
    /// Read.
    Read,
    /// Send messages to clients.
    Push,
    /// All permissions.
    Operate,
}

impl Scope {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Push => "push",
            Self::Operate => "operate",
        }
    }

    /// Whether this scope includes `other`. Neither of `read` and `push` includes the other.
    pub(crate) fn allows(self, other: Self) -> bool {
        self == Self::Operate || self == other
    }
}

/// An authenticated caller.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) scope: Scope,
    /// The scope and the start of the token's hash: it identifies the token without revealing it.
    pub(crate) name: String,
}

impl Caller {
    /// Any process on this machine, if no token is configured.
    pub(crate) fn local() -> Self {
        Self {
            scope: Scope::Operate,
            name: "local".to_owned(),
        }
    }
}

/// The tokens of one configuration. Empty: no token is required.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tokens(Vec<(Caller, String)>);

impl Tokens {
    pub(crate) fn of(settings: &AdminSettings) -> Self {
        let one = (!settings.token.is_empty()).then(|| settings.token.expose());
        let several = |list: &SecretTexts| -> Vec<String> {
            list.0
                .iter()
                .map(|secret| secret.expose().to_owned())
                .collect()
        };
        let mut all: Vec<(Scope, String)> = one
            .map(|token| (Scope::Operate, token.to_owned()))
            .into_iter()
            .collect();
        for (scope, list) in [
            (Scope::Operate, &settings.operate_tokens),
            (Scope::Push, &settings.push_tokens),
            (Scope::Read, &settings.read_tokens),
        ] {
            all.extend(several(list).into_iter().map(|token| (scope, token)));
        }
        let known = all.into_iter().map(|(scope, token)| {
            let hash = digest::digest(&digest::SHA256, token.as_bytes());
            let short = hash.as_ref().iter().take(4);
            let short = short.fold(0_u32, |all, byte| all << 8 | u32::from(*byte));
            let name = format!("{}:{short:08x}", scope.name());
            (Caller { scope, name }, token)
        });
        Self(known.collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The caller with this token. All tokens are compared, so that the time does not depend on the match.
    pub(crate) fn find(&self, given: &str) -> Option<&Caller> {
        let mut found = None;
        for (caller, token) in &self.0 {
            if same(given.as_bytes(), token.as_bytes()) {
                found = Some(caller);
            }
        }
        found
    }
}

/// Compares in a time that depends only on the length of `given`, so that the response time does not reveal a matching prefix.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    let mut difference = u8::from(given.len() != wanted.len());
    for (i, byte) in given.iter().enumerate() {
        difference |= byte ^ wanted.get(i).copied().unwrap_or_default();
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use shaddock_cluster::Secret;

    use super::*;

    #[test]
    fn scopes() {
        use Scope::{Operate, Push, Read};
        for (have, wanted, is_allowed) in [
            (Read, Read, true),
            (Read, Push, false),
            (Read, Operate, false),
            (Push, Push, true),
            (Push, Read, false),
            (Push, Operate, false),
            (Operate, Read, true),
            (Operate, Push, true),
            (Operate, Operate, true),
        ] {
            assert_eq!(have.allows(wanted), is_allowed, "{have:?} {wanted:?}");
        }
    }

    #[test]
    fn tokens_are_found_and_not_shown() {
        let text = |n: u8| format!("{n}-secret-secret-secret");
        let settings = AdminSettings {
            token: Secret::from(text(1).as_str()),
            push_tokens: SecretTexts(vec![
                Secret::from(text(2).as_str()),
                Secret::from(text(3).as_str()),
            ]),
            ..AdminSettings::default()
        };
        let tokens = Tokens::of(&settings);
        let scope = |token: &str| tokens.find(token).map(|caller| caller.scope);
        assert_eq!(scope(&text(1)), Some(Scope::Operate));
        assert_eq!(scope(&text(2)), Some(Scope::Push));
        assert_eq!(scope(&text(3)), Some(Scope::Push));
        assert_eq!(scope(&text(4)), None);
        assert_eq!(scope(""), None);
        let names: Vec<&str> = [2, 3]
            .iter()
            .filter_map(|n| tokens.find(&text(*n)))
            .map(|one| one.name.as_str())
            .collect();
        assert!(
            names[0] != names[1]
                && names
                    .iter()
                    .all(|name| name.starts_with("push:") && !name.contains("secret"))
        );
        assert!(Tokens::of(&AdminSettings::default()).is_empty());
    }
}
