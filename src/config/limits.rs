//! AccessTokens and TagLimits: who may have IDs of which tags, and how many a second.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value, json};

use super::api::{ACCESS_TOKENS, ACCESS_TOKENS_ALLOWED, TAG_LIMITS};
use super::error::{ConfigError, bad_value};
use crate::store::tag::TAG_BYTES_MAX;

/// How long a token may be: a shorter one is soon guessed.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=256;
const ACCESS_TOKENS_MAX: usize = 1000;
const TAG_LIMITS_MAX: usize = 10_000;
const TOKEN_NAME_BYTES_MAX: usize = 64;

/// The largest `ids_per_second`, and the largest `burst`, which is as large as the largest lease.
pub const RATE_MAX: u64 = 1_000_000_000;

/// In TagLimits, what holds for each tag that is not named; in AccessTokens, all tags.
const EVERY: &str = "*";

const TAGS: &str = "tags";
const IDS_PER_SECOND: &str = "ids_per_second";
const BURST: &str = "burst";
const NAME: &str = "name";

/// How many IDs may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// In each second, on average; at least 1.
    pub ids_per_second: u64,
    /// At once, after a while without any; at least 1.
    pub burst: u64,
}

/// How many IDs of each tag may be taken from this server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TagLimits {
    /// Of these.
    pub named: BTreeMap<String, RateLimit>,
    /// Of each tag that is not among them; `None`: as many as are asked for.
    pub others: Option<RateLimit>,
}

/// Tokens, and what each is good for. `Debug` hides the tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessTokens(pub BTreeMap<String, AccessToken>);

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// Which tags.
    pub scope: AccessScope,
    /// How many IDs of all of them together; `None`: as many as are asked for.
    pub limit: Option<RateLimit>,
    /// What it is called where it must not be shown.
    pub name: Option<String>,
}

/// Which tags a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessScope {
    /// All of them.
    All,
    /// These.
    Tags(BTreeSet<String>),
}

impl fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.values()).finish()
    }
}

impl From<AccessScope> for AccessToken {
    fn from(scope: AccessScope) -> Self {
        Self { scope, limit: None, name: None }
    }
}

impl TagLimits {
    /// The key's value; `None` where it is absent.
    pub(super) fn parse(given: Option<&Value>) -> Result<Self, ConfigError> {
        let Some(given) = given else { return Ok(Self::default()) };
        let tags = given.as_object().filter(|tags| tags.len() <= TAG_LIMITS_MAX);
        let tags = tags.ok_or_else(|| {
            bad_value(TAG_LIMITS, Some(given), format!("an object of up to {TAG_LIMITS_MAX} tags"))
        })?;
        let mut limits = Self::default();
        for (tag, value) in tags {
            let place = Place { shown: format!("{}: {tag:?}", TAG_LIMITS), is_secret: false };
            if !(1..=TAG_BYTES_MAX).contains(&tag.len()) {
                return Err(place.error(format!("is no tag: allowed are 1 to {TAG_BYTES_MAX} bytes")));
            }
            let limit = place.object(value, &[IDS_PER_SECOND, BURST]).and_then(|members| {
                let absent = || place.bad(IDS_PER_SECOND, None, &whole_number());
                place.limit(members)?.ok_or_else(absent)
            })?;
            match tag.as_str() {
                EVERY => limits.others = Some(limit),
                _ => drop(limits.named.insert(tag.clone(), limit)),
            }
        }
        Ok(limits)
    }

    /// As it stands in a configuration.
    pub(super) fn shown(&self) -> Value {
        let every = self.others.iter().map(|limit| (EVERY, limit));
        let all = every.chain(self.named.iter().map(|(tag, limit)| (tag.as_str(), limit)));
        let shown = |limit: &RateLimit| json!({IDS_PER_SECOND: limit.ids_per_second, BURST: limit.burst});
        all.map(|(tag, limit)| (tag.to_owned(), shown(limit))).collect::<Map<_, _>>().into()
    }
}

impl AccessTokens {
    /// The key's value.
    pub(super) fn parse(given: &Value) -> Result<Self, ConfigError> {
        let tokens = given.as_object().filter(|tokens| (1..=ACCESS_TOKENS_MAX).contains(&tokens.len()));
        let tokens = tokens.ok_or_else(bad_tokens)?;
        let mut parsed = BTreeMap::new();
        for (token, value) in tokens {
            if !is_token(token) {
                return Err(bad_tokens());
            }
            let access = parse_token(value, tokens)?;
            parsed.insert(token.clone(), access);
        }
        Ok(Self(parsed))
    }
}

/// What may be in a header as it is.
pub(super) fn is_token(text: &str) -> bool {
    TOKEN_BYTES.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn bad_tokens() -> ConfigError {
    ConfigError::BadSecret { origin: ACCESS_TOKENS, allowed: ACCESS_TOKENS_ALLOWED }
}

/// A name must be none of `tokens`, because it is shown.
fn parse_token(value: &Value, tokens: &Map<String, Value>) -> Result<AccessToken, ConfigError> {
    let Some(members) = value.as_object() else {
        return parse_scope(value).map(Into::into).ok_or_else(bad_tokens);
    };
    let is_name = |name: &&str| is_token_name(name) && !tokens.contains_key(*name);
    let name = members.get(NAME).map(|name| name.as_str().filter(is_name));
    let place = match name {
        Some(Some(name)) => Place { shown: format!("{}: {name:?}", ACCESS_TOKENS), is_secret: true },
        _ => nameless_place(),
    };
    let members = place.object(value, &[TAGS, IDS_PER_SECOND, BURST, NAME])?;
    if name == Some(None) {
        let allowed = format!("1 to {TOKEN_NAME_BYTES_MAX} bytes without control characters, and no token");
        return Err(place.error(format!("has a name that is not allowed: allowed are {allowed}")));
    }
    let scope = members.get(TAGS).and_then(parse_scope);
    let scope =
        scope.ok_or_else(|| place.error("has no tags: allowed are \"*\" or an array of tags".to_owned()))?;
    Ok(AccessToken { scope, limit: place.limit(members)?, name: name.flatten().map(str::to_owned) })
}

fn nameless_place() -> Place {
    Place { shown: format!("{}: a token without a name", ACCESS_TOKENS), is_secret: true }
}

fn is_token_name(name: &str) -> bool {
    (1..=TOKEN_NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

fn parse_scope(value: &Value) -> Option<AccessScope> {
    match value {
        Value::String(all) if all == EVERY => Some(AccessScope::All),
        Value::Array(tags) => {
            let tag = |tag: &Value| tag.as_str().filter(|tag| !tag.is_empty()).map(str::to_owned);
            tags.iter().map(tag).collect::<Option<_>>().map(AccessScope::Tags)
        }
        _ => None,
    }
}

fn whole_number() -> String {
    format!("a whole number, 1 to {RATE_MAX} IDs")
}

/// Where a limit stands, for errors.
struct Place {
    shown: String,
    /// What stands there may be a token that is in the wrong place.
    is_secret: bool,
}

impl Place {
    fn error(&self, complaint: String) -> ConfigError {
        ConfigError::BadLimit(format!("{} {complaint}", self.shown))
    }

    fn bad(&self, member: &str, value: Option<&Value>, allowed: &str) -> ConfigError {
        let value = match value {
            None => "absent".to_owned(),
            Some(Value::String(_) | Value::Array(_) | Value::Object(_)) if self.is_secret => {
                "no number".to_owned()
            }
            Some(value) => value.to_string(),
        };
        ConfigError::BadLimit(format!("{}: {member} is {value}: allowed is {allowed}", self.shown))
    }

    /// The value's members, if it is an object with no others than these.
    fn object<'a>(&self, value: &'a Value, known: &[&str]) -> Result<&'a Map<String, Value>, ConfigError> {
        let all = known.join(", ");
        let members = value
            .as_object()
            .ok_or_else(|| self.error(format!("is no object: allowed is an object with {all}")))?;
        match members.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(members),
            Some(_) if self.is_secret => Err(self.error(format!("has an unknown member: allowed are {all}"))),
            Some(name) => Err(self.error(format!("has the unknown member {name:?}: allowed are {all}"))),
        }
    }

    /// The limit that the members set, if they set one.
    fn limit(&self, members: &Map<String, Value>) -> Result<Option<RateLimit>, ConfigError> {
        let number = |member: &'static str| match members.get(member) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|n| (1..=RATE_MAX).contains(n)) {
                Some(n) => Ok(Some(n)),
                None => Err(self.bad(member, Some(value), &whole_number())),
            },
        };
        match (number(IDS_PER_SECOND)?, number(BURST)?) {
            (Some(ids_per_second), burst) => {
                Ok(Some(RateLimit { ids_per_second, burst: burst.unwrap_or(ids_per_second) }))
            }
            (None, Some(_)) => Err(self.bad(IDS_PER_SECOND, None, &whole_number())),
            (None, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{message, with};
    use super::*;

    const TOKEN: &str = "hunter2-hunter2-hunter2";

    fn limit(ids_per_second: u64, burst: u64) -> RateLimit {
        RateLimit { ids_per_second, burst }
    }

    #[test]
    fn a_burst_is_a_second_s_worth_unless_set() {
        let text = json!({
            "orders": {"ids_per_second": 5}, "users": {"ids_per_second": 1, "burst": RATE_MAX},
            "*": {"ids_per_second": RATE_MAX, "burst": 1}
        });
        let limits = TagLimits::parse(Some(&text)).unwrap();
        let named = [("orders", limit(5, 5)), ("users", limit(1, RATE_MAX))];
        assert_eq!(limits.named, named.map(|(tag, limit)| (tag.to_owned(), limit)).into());
        assert_eq!(limits.others, Some(limit(RATE_MAX, 1)));
        assert_eq!(TagLimits::parse(Some(&limits.shown())), Ok(limits));
        assert_eq!(TagLimits::parse(None), Ok(TagLimits::default()));
        assert_eq!(TagLimits::parse(Some(&json!({}))), Ok(TagLimits::default()));
    }

    #[test]
    fn a_limit_of_a_tag_is_checked_and_the_error_says_where_it_is() {
        let number = "allowed is a whole number, 1 to 1000000000 IDs";
        for (value, complaint) in [
            (json!({"ids_per_second": 0}), format!(": ids_per_second is 0: {number}")),
            (json!({"ids_per_second": RATE_MAX + 1}), format!(": ids_per_second is 1000000001: {number}")),
            (json!({"ids_per_second": 1.5}), format!(": ids_per_second is 1.5: {number}")),
            (json!({"ids_per_second": "9"}), format!(": ids_per_second is \"9\": {number}")),
            (json!({"ids_per_second": -1}), format!(": ids_per_second is -1: {number}")),
            (json!({"ids_per_second": 1, "burst": 0}), format!(": burst is 0: {number}")),
            (json!({"ids_per_second": 1, "burst": null}), format!(": burst is null: {number}")),
            (json!({"burst": 1}), format!(": ids_per_second is absent: {number}")),
            (json!({}), format!(": ids_per_second is absent: {number}")),
            (json!(5), " is no object: allowed is an object with ids_per_second, burst".to_owned()),
            (
                json!({"ids_per_second": 1, "bust": 1}),
                " has the unknown member \"bust\": allowed are ids_per_second, burst".to_owned(),
            ),
        ] {
            for tag in ["orders", "*"] {
                let error = TagLimits::parse(Some(&json!({tag: value}))).unwrap_err().to_string();
                assert_eq!(error, format!("TagLimits: \"{tag}\"{complaint}"));
            }
        }
        let long = "x".repeat(129);
        for tag in ["", &long] {
            let error = TagLimits::parse(Some(&json!({tag: {"ids_per_second": 1}}))).unwrap_err().to_string();
            assert_eq!(error, format!("TagLimits: \"{tag}\" is no tag: allowed are 1 to 128 bytes"));
        }
        let many: Map<_, _> = (0..=10_000).map(|n| (n.to_string(), json!({"ids_per_second": 1}))).collect();
        for bad in [json!(null), json!([]), json!("*"), json!(many)] {
            let error = TagLimits::parse(Some(&bad)).unwrap_err().to_string();
            assert!(error.ends_with(": allowed is an object of up to 10000 tags"), "{error}");
        }
    }

    #[test]
    fn a_token_may_have_a_limit_and_a_name() {
        let parse =
            |value: Value| AccessTokens::parse(&json!({TOKEN: value})).map(|mut all| all.0.remove(TOKEN));
        for (value, scope) in
            [(json!("*"), AccessScope::All), (json!(["a"]), AccessScope::Tags(["a".to_owned()].into()))]
        {
            assert_eq!(parse(value.clone()), Ok(Some(scope.clone().into())));
            assert_eq!(parse(json!({"tags": value})), Ok(Some(scope.clone().into())));
            let limited = json!({"tags": value, "ids_per_second": 7, "burst": 8, "name": "bill\u{e9}"});
            let expected = AccessToken {
                scope: scope.clone(),
                limit: Some(limit(7, 8)),
                name: Some("bill\u{e9}".into()),
            };
            assert_eq!(parse(limited), Ok(Some(expected)));
            let nameless = AccessToken { scope, limit: Some(limit(7, 7)), name: None };
            assert_eq!(parse(json!({"tags": value, "ids_per_second": 7})), Ok(Some(nameless)));
        }
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said_without_the_token() {
        let tags = "has no tags: allowed are \"*\" or an array of tags";
        let number = "allowed is a whole number, 1 to 1000000000 IDs";
        let names = "has a name that is not allowed: allowed are 1 to 64 bytes without control characters, and no token";
        for (value, complaint) in [
            (json!({}), format!(" {tags}")),
            (json!({"tags": TOKEN}), format!(" {tags}")),
            (json!({"tags": [1]}), format!(" {tags}")),
            (json!({"tags": "*", "burst": 1}), format!(": ids_per_second is absent: {number}")),
            (json!({"tags": "*", "ids_per_second": 0}), format!(": ids_per_second is 0: {number}")),
            (
                json!({"tags": "*", "ids_per_second": TOKEN}),
                format!(": ids_per_second is no number: {number}"),
            ),
            (
                json!({"tags": "*", TOKEN: 1}),
                " has an unknown member: allowed are tags, ids_per_second, burst, name".into(),
            ),
            (json!({"tags": "*", "name": ""}), format!(" {names}")),
            (json!({"tags": "*", "name": 1}), format!(" {names}")),
            (json!({"tags": "*", "name": "a\nb"}), format!(" {names}")),
            (json!({"tags": "*", "name": "x".repeat(65)}), format!(" {names}")),
            (json!({"tags": "*", "name": TOKEN}), format!(" {names}")),
        ] {
            let error = AccessTokens::parse(&json!({TOKEN: value})).unwrap_err().to_string();
            assert_eq!(error, format!("AccessTokens: a token without a name{complaint}"));
        }
        let named = json!({TOKEN: {"tags": "*", "name": "billing", "ids_per_second": 0}});
        let error = AccessTokens::parse(&named).unwrap_err().to_string();
        assert_eq!(error, format!("AccessTokens: \"billing\": ids_per_second is 0: {number}"));
        let other = "hunter2-hunter2-hunter3";
        let swapped = json!({TOKEN: "*", other: {"tags": "*", "name": TOKEN, "ids_per_second": 0}});
        assert!(!AccessTokens::parse(&swapped).unwrap_err().to_string().contains("hunter2"));
    }

    #[test]
    fn access_tokens_are_checked_and_never_shown() {
        let secret = "hunter2-hunter2-hunter2";
        for good in [
            json!({secret: "*"}),
            json!({secret: []}),
            json!({secret: ["a"], "0123456789abcdef": ["a", "*"]}),
        ] {
            let config = with("AccessTokens", &good).unwrap();
            assert_eq!(config.api.tokens.as_ref().unwrap().0.len(), good.as_object().unwrap().len());
            assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
        }
        let many: Map<String, Value> = (0..=1000).map(|n| (format!("{secret}{n}"), json!("*"))).collect();
        for bad in [
            json!(null),
            json!(secret),
            json!([secret]),
            json!({}),
            json!({"hunter2": "*"}),
            json!({secret: "a"}),
            json!({secret: [1]}),
            json!({secret: [""]}),
            json!({"hunter2 hunter2 hunter2": "*"}),
            json!(many),
        ] {
            let error = with("AccessTokens", &bad).unwrap_err().to_string();
            assert!(error.starts_with("AccessTokens is not as it must be: allowed is an object"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let twice = format!(r#"{{"DSN": "a", "AccessTokens": {{"{secret}": "*", "{secret}": ["a"]}}}}"#);
        let error = message(&twice);
        assert!(error.contains("is given twice") && !error.contains("hunter2"), "{error}");
    }
}
