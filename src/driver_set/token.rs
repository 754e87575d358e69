//! Licence tokens: what NVIDIA's licence servers give out as `client_configuration_token_….tok`,
//! and with which any machine can take licences. They are kept where only root can read them, and
//! leave this place on discs alone: no message, report or command line has a part of one.

use std::{fmt, io, io::Read, path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::{
    host::{DiscLock, Host, leave_no_core, since_1970},
    model::{DomainName, TokenScope, UtcTime, visible},
};

/// The most bytes of a token; they have some 3 KiB.
const LARGEST: u64 = 64 << 10;

/// From how many seconds before its end on a token is warned of.
const SOON: u64 = 30 * DAY;

/// A day in seconds.
const DAY: u64 = 24 * 60 * 60;

/// The contents of a token. It shows nothing of them.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A licence token.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Token {
    /// The name of its file, in guests too.
    pub file: String,
    /// The domain's name when the token was added, if it is a domain's and was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_name: Option<DomainName>,
    text: Secret,
}

/// Until when a token can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// Seconds since 1970.
    at: u64,
    now: u64,
}

/// A token as it is stored.
#[derive(Debug, Clone)]
pub struct StoredToken {
    /// The VMs that it is for.
    pub scope: TokenScope,
    /// The token.
    pub token: Token,
}

impl Token {
    /// Reads a token that a person has.
    ///
    /// # Errors
    /// What is wrong with it, with the next step.
    pub fn open(host: &Host, path: &Path) -> anyhow::Result<Self> {
        let shown = visible(&path.to_string_lossy()).into_owned();
        let file = path.file_name().and_then(|name| name.to_str());
        let Some(file) = file.filter(|name| is_plain(name)) else {
            bail!(
                "{shown} is not the name of a token: it has to end with .tok, and may have letters, \
                 digits and ._-, at most {LONGEST_NAME}; rename it"
            );
        };
        // Without it a crash could leave a token on the disk, which is no reason to do nothing.
        let _ = leave_no_core();
        let given = host.open_given(path).with_context(|| shown.clone())?;
        let mut bytes = Vec::new();
        let read = given.take(LARGEST + 1).read_to_end(&mut bytes);
        read.with_context(|| shown.clone())?;
        let no_token = |why: &str| {
            anyhow!(
                "{shown} {why}: it is no licence token; download the client configuration token \
                 from NVIDIA's licensing portal or from your licence server"
            )
        };
        if bytes.len() as u64 > LARGEST {
            return Err(no_token("has more than 64 KiB"));
        }
        let text = String::from_utf8(bytes).map_err(|_| no_token("is no text"))?;
        if text.trim().is_empty() {
            return Err(no_token("is empty"));
        }
        let is_strange = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
        if text.contains(is_strange) {
            return Err(no_token("is no text"));
        }
        Ok(Self {
            file: file.to_owned(),
            domain_name: None,
            text: Secret(text),
        })
    }

    /// When it expires; None: it does not say.
    #[must_use]
    pub fn expiry(&self) -> Option<Expiry> {
        let at = expiry_of(self.text.0.trim())?;
        let now = since_1970();
        Some(Expiry { at, now })
    }

    /// Its contents, for a disc.
    pub(super) fn contents(&self) -> &str {
        &self.text.0
    }
}

impl Expiry {
    /// Whether it has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.at <= self.now
    }

    /// Whether it has passed, or does so within 30 days.
    #[must_use]
    pub fn is_near(self) -> bool {
        self.at <= self.now.saturating_add(SOON)
    }
}

/// The day in UTC: `2027-03-01`.
impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = UtcTime::after_epoch(Duration::from_secs(self.at));
        f.write_str(&moment.date())
    }
}

impl StoredToken {
    /// Its end, if it is near: `expires on 2027-03-01`, or that it has expired.
    #[must_use]
    pub fn ending(&self) -> Option<String> {
        let expiry = self.token.expiry().filter(|expiry| expiry.is_near())?;
        let verb = match expiry.has_passed() {
            true => "has expired on",
            false => "expires on",
        };
        Some(format!("{verb} {expiry}"))
    }

    /// What is to be said about its end, if it is near: a whole message.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let ending = self.ending()?;
        Some(format!(
            "the licence token of {} {ending} (UTC), and guests get no licence with it after \
             that; get a new one from NVIDIA's licensing portal, then run '{}'",
            self.owner(),
            self.replacement()
        ))
    }

    /// The command that puts another token in its place.
    #[must_use]
    pub fn replacement(&self) -> String {
        format!("virt-vgpu driver token add FILE.tok{}", self.scope.option())
    }

    /// Whose it is, with the name of a domain.
    #[must_use]
    pub fn owner(&self) -> String {
        match &self.token.domain_name {
            Some(name) => format!("domain '{name}' ({})", self.scope_word()),
            None => self.scope.to_string(),
        }
    }

    fn scope_word(&self) -> String {
        match &self.scope {
            TokenScope::Domain(uuid) => uuid.to_string(),
            other => other.to_string(),
        }
    }
}

const LONGEST_NAME: usize = 100;

fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    begins && name.len() <= LONGEST_NAME && name.ends_with(".tok") && name.bytes().all(is_plain)
}

/// The end in a JSON Web Token (RFC 7519): seconds since 1970.
fn expiry_of(text: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Payload {
        exp: serde_json::Number,
    }
    /// The year 9999.
    const LAST: u64 = 253_402_300_799;
    let parts: Vec<&str> = text.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        return None;
    };
    decoded(header)?;
    decoded(signature)?;
    let Payload { exp } = serde_json::from_slice(&decoded(payload)?).ok()?;
    let whole = exp.as_u64().or_else(|| {
        // RFC 7519 allows parts of seconds.
        exp.to_string().split('.').next()?.parse().ok()
    });
    whole.filter(|&at| at <= LAST)
}

/// Reads base64url (RFC 4648), with padding or without.
fn decoded(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let text = text.trim_end_matches('=');
    let is_whole = !text.is_empty() && text.len() % 4 != 1;
    if !is_whole {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.as_bytes().chunks(4) {
        let mut bits: u32 = 0;
        for digit in group {
            let value = ALPHABET.iter().position(|one| one == digit)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        let missing = 4 - group.len();
        bits <<= 6 * missing;
        bytes.extend_from_slice(&bits.to_be_bytes()[1..4 - missing]);
    }
    Some(bytes)
}

/// The token of that scope; None: there is none.
///
/// # Errors
/// That it cannot be read, with the next step.
pub fn find(host: &Host, scope: &TokenScope) -> io::Result<Option<StoredToken>> {
    let path = scope.path();
    // As above.
    let _ = leave_no_core();
    let text = match host.read_file(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
    };
    // The error's own words may have a part of the token.
    let token: Option<Token> = serde_json::from_str(&text).ok();
    let token = token.filter(|token| is_plain(&token.file)).ok_or_else(|| {
        let what = format!(
            "{path} is damaged; run 'virt-vgpu driver token remove{}', then add the token again",
            scope.option()
        );
        io::Error::new(io::ErrorKind::InvalidData, what)
    })?;
    Ok(Some(StoredToken {
        scope: scope.clone(),
        token,
    }))
}

/// All tokens, and what cannot be read.
///
/// # Errors
/// When the directory cannot be listed, as by others than root.
pub fn all(host: &Host) -> io::Result<(Vec<StoredToken>, Vec<String>)> {
    use crate::device::{Sysfs, optional};
    const DIRECTORY: &str = TokenScope::DIRECTORY;
    let (mut tokens, mut problems) = (Vec::new(), Vec::new());
    let names = optional(host.list(DIRECTORY));
    let names =
        names.map_err(|error| io::Error::new(error.kind(), format!("{DIRECTORY}: {error}")))?;
    for name in names.unwrap_or_default() {
        // Those that are not complete have names with a dot before.
        if name.starts_with('.') {
            continue;
        }
        let scope = TokenScope::of_file(&name);
        match scope.filter(|scope| scope.path() == format!("{DIRECTORY}/{name}")) {
            Some(scope) => match find(host, &scope) {
                Ok(token) => tokens.extend(token),
                Err(error) => problems.push(error.to_string()),
            },
            None => problems.push(format!("{DIRECTORY}/{} is no token", visible(&name))),
        }
    }
    tokens.sort_by(|one, other| one.scope.cmp(&other.scope));
    Ok((tokens, problems))
}

/// Stores a token in place of the one that is there, whole or not at all.
///
/// # Errors
/// The kernel's errno, with the path.
pub fn store(host: &Host, one: &StoredToken, _alone: &DiscLock) -> anyhow::Result<()> {
    const MODE: u32 = 0o600;
    let path = one.scope.path();
    let text = serde_json::to_vec_pretty(&one.token)?;
    host.make_private_directory(TokenScope::DIRECTORY)
        .and_then(|()| host.replace_file(&path, &text, MODE))
        .with_context(|| format!("cannot write {path}"))
}

/// Removes a token; one that is not there is no error.
///
/// # Errors
/// The kernel's errno, with the path.
pub fn remove(host: &Host, scope: &TokenScope, _alone: &DiscLock) -> anyhow::Result<()> {
    let path = scope.path();
    let removed = host.remove_file(&path);
    removed.with_context(|| format!("cannot remove {path}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_end_is_shown_as_a_day() {
        let at = 4_107_542_399;
        assert_eq!(Expiry { at, now: 0 }.to_string(), "2100-02-28");
    }

    #[test]
    fn the_end_of_a_token() {
        for (payload, wanted) in [
            // {"exp":1893456000} {"exp":1893456000.5} {"iat":1} {"exp":"x"} {"exp":-1} {"exp":1e30}
            ("eyJleHAiOjE4OTM0NTYwMDB9", Some(1_893_456_000)),
            ("eyJleHAiOjE4OTM0NTYwMDAuNX0", Some(1_893_456_000)),
            ("eyJleHAiOjE4OTM0NTYwMDAuNX0=", Some(1_893_456_000)),
            ("eyJpYXQiOjF9", None),
            ("eyJleHAiOiJ4In0", None),
            ("eyJleHAiOi0xfQ", None),
            ("eyJleHAiOjFlMzB9", None),
            ("", None),
            ("e30", None),
            ("+/+/", None),
        ] {
            assert_eq!(
                expiry_of(&format!("e30.{payload}.c2ln")),
                wanted,
                "{payload}"
            );
        }
        for text in ["eyJleHAiOjE4OTM0NTYwMDB9", "a.b", "e30.e30.c2ln.c2ln", ""] {
            assert_eq!(expiry_of(text), None, "{text}");
        }
    }

    #[test]
    fn near_is_30_days() {
        let at = 1_000 * DAY;
        let state = |now| {
            let expiry = Expiry { at, now };
            (expiry.is_near(), expiry.has_passed())
        };
        assert_eq!(state(at - 30 * DAY - 1), (false, false));
        assert_eq!(state(at - 30 * DAY), (true, false));
        assert_eq!(state(at - 1), (true, false));
        assert_eq!(state(at), (true, true));
    }

    #[test]
    fn nothing_shows_what_is_in_a_token() {
        let token = Token {
            file: "a.tok".to_owned(),
            domain_name: None,
            text: Secret("sesame".to_owned()),
        };
        assert!(!format!("{token:?} {token:#?}").contains("sesame"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}", digits in "[A-Za-z0-9_=.-]{0,60}") {
            let _ = expiry_of(&text);
            let _ = expiry_of(&digits);
        }
    }
}
