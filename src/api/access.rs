//! AccessTokens: who may have IDs of which tags.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::BuildHasher as _;

use subtle::ConstantTimeEq as _;

use super::rate_limit::Limiter;
use crate::config::{AccessScope, AccessTokens};

/// All tokens.
///
/// A token is looked up by its hash, and compared in constant time only if some token has the same hash. The hash is keyed
/// with what is random in each process, so how long the look-up takes says nothing about how a token begins.
pub struct Access {
    hasher: RandomState,
    by_hash: HashMap<u64, Vec<Grant>>,
}

/// One token, and what it is good for. Only compared, never shown.
pub struct Grant {
    token: Box<[u8]>,
    /// `None`: all of them.
    tags: Option<BTreeSet<String>>,
    limiter: Option<Limiter>,
    name: Option<Box<str>>,
}

impl Access {
    /// The tokens of the configuration.
    pub fn new(tokens: &AccessTokens) -> Self {
        let hasher = RandomState::new();
        let mut by_hash = HashMap::<_, Vec<_>>::new();
        for (token, access) in &tokens.0 {
            let tags = match &access.scope {
                AccessScope::All => None,
                AccessScope::Tags(tags) => Some(tags.clone()),
            };
            let limiter = access.limit.map(Limiter::new);
            let name = access.name.as_deref().map(Into::into);
            let grant = Grant { token: token.as_bytes().into(), tags, limiter, name };
            by_hash.entry(hasher.hash_one(token.as_bytes())).or_default().push(grant);
        }
        Self { hasher, by_hash }
    }

    /// What `token` is good for, if it is one.
    pub fn grant(&self, token: &[u8]) -> Option<&Grant> {
        let same_hash = self.by_hash.get(&self.hasher.hash_one(token))?;
        same_hash.iter().find(|grant| grant.token.ct_eq(token).into())
    }
}

impl Grant {
    /// Whether the token is for this tag.
    pub fn allows(&self, tag: &str) -> bool {
        self.tags.as_ref().is_none_or(|tags| tags.contains(tag))
    }

    /// How many IDs may be taken with it; `None`: as many as are asked for.
    pub fn limiter(&self) -> Option<&Limiter> {
        self.limiter.as_ref()
    }

    /// What it is called where it must not be shown.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// The token of an `Authorization: Bearer` header.
pub fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii_start())
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Access")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn tokens() -> impl Strategy<Value = BTreeMap<String, AccessScope>> {
        let tags = proptest::collection::btree_set("[a-c]{1,2}", 0..4);
        let scope = prop_oneof![Just(AccessScope::All), tags.prop_map(AccessScope::Tags)];
        proptest::collection::btree_map("[a-c]{16,18}", scope, 1..20)
    }

    proptest! {
        #[test]
        fn a_token_is_good_for_its_own_tags_and_anything_else_for_none(
            tokens in tokens(), other in "[a-c]{0,18}", tag in "[a-c]{1,2}",
        ) {
            let all = tokens.iter().map(|(token, scope)| (token.clone(), scope.clone().into()));
            let access = Access::new(&AccessTokens(all.collect()));
            for (token, scope) in &tokens {
                let expected = match scope {
                    AccessScope::All => true,
                    AccessScope::Tags(tags) => tags.contains(&tag),
                };
                prop_assert_eq!(access.grant(token.as_bytes()).map(|grant| grant.allows(&tag)), Some(expected));
                for wrong in [&token[1..], &token[..token.len() - 1], &token.to_uppercase(), &format!("{token} ")] {
                    prop_assert_eq!(access.grant(wrong.as_bytes()).is_some(), tokens.contains_key(wrong));
                }
            }
            prop_assert_eq!(access.grant(other.as_bytes()).is_some(), tokens.contains_key(&other));
        }
    }

    #[test]
    fn only_a_bearer_token_is_one() {
        for good in ["Bearer abc", "bearer abc", "BEARER   abc"] {
            assert_eq!(bearer(good.as_bytes()), Some(&b"abc"[..]), "{good}");
        }
        for bad in ["", "Bearer", "Bearerabc", "Basic abc", "abc", "Token Bearer abc"] {
            assert_eq!(bearer(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(bearer(b"Bearer "), Some(&b""[..]));
    }
}
