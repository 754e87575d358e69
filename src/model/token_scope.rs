//! Whose a licence token is, and where it and the discs with it lie. The hook finds them by
//! these rules alone.

use std::{fmt, path::Path};

use super::{DomainUuid, DriverSetName, PoolName};

/// The VMs that a licence token is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenScope {
    /// All that have no other one.
    All,
    /// Those of a pool that have none of their own.
    Pool(PoolName),
    /// One domain.
    Domain(DomainUuid),
}

impl TokenScope {
    /// The directory of all tokens; only root may look into it.
    pub const DIRECTORY: &str = "/var/lib/virt-vgpu/tokens";

    /// The tokens that a domain may have from a pool: the first that there is, is its.
    #[must_use]
    pub fn of(domain: Option<DomainUuid>, pool: &PoolName) -> Vec<Self> {
        let own = domain.map(Self::Domain);
        own.into_iter()
            .chain([Self::Pool(pool.clone()), Self::All])
            .collect()
    }

    /// The file with the token.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}.json", Self::DIRECTORY, self.stem())
    }

    /// The scope of a token's file of that name.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        Self::of_stem(name.strip_suffix(".json")?)
    }

    /// The image of a set's disc with this token.
    #[must_use]
    pub fn disc(&self, set: &DriverSetName) -> String {
        format!("{}/{DISC}{}{IMAGE}", set.directory(), self.stem())
    }

    /// The scope of the disc of that name in a set's directory.
    #[must_use]
    pub fn of_disc(name: &str) -> Option<Self> {
        Self::of_stem(name.strip_prefix(DISC)?.strip_suffix(IMAGE)?)
    }

    /// The option of 'virt-vgpu driver token' that names it, with a space before it.
    #[must_use]
    pub fn option(&self) -> String {
        match self {
            Self::All => String::new(),
            Self::Pool(pool) => format!(" --pool={pool}"),
            Self::Domain(domain) => format!(" --domain={domain}"),
        }
    }

    fn stem(&self) -> String {
        match self {
            Self::All => ALL.to_owned(),
            Self::Pool(pool) => format!("{POOL}{pool}"),
            Self::Domain(domain) => format!("{DOMAIN}{domain}"),
        }
    }

    fn of_stem(stem: &str) -> Option<Self> {
        if stem == ALL {
            return Some(Self::All);
        }
        let pool = stem.strip_prefix(POOL).map(|name| name.parse().ok());
        if let Some(pool) = pool {
            return pool.map(Self::Pool);
        }
        let domain = stem.strip_prefix(DOMAIN)?.parse().ok();
        domain.map(Self::Domain)
    }
}

const ALL: &str = "all";
const POOL: &str = "pool-";
const DOMAIN: &str = "domain-";

const DISC: &str = "guest-";
const IMAGE: &str = ".iso";

/// `all VMs`, `pool 'cad'`, `domain UUID`.
impl fmt::Display for TokenScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all VMs"),
            Self::Pool(pool) => write!(f, "pool '{pool}'"),
            Self::Domain(domain) => write!(f, "domain {domain}"),
        }
    }
}

/// A disc of a driver set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetDisc {
    /// The set.
    pub set: DriverSetName,
    /// Whose token is on it; None: nobody's.
    pub token: Option<TokenScope>,
}

impl SetDisc {
    /// The disc at that path; None: it is another image.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let directory = path.parent()?;
        let set: DriverSetName = directory.file_name()?.to_str()?.parse().ok()?;
        let token = TokenScope::of_disc(name);
        let one = Self { set, token };
        (Path::new(&one.path()) == path).then_some(one)
    }

    /// Where its image lies.
    #[must_use]
    pub fn path(&self) -> String {
        match &self.token {
            Some(scope) => scope.disc(&self.set),
            None => self.set.disc(),
        }
    }
}

/// `driver set 'nvidia-580', with the licence token of pool 'cad'`.
impl fmt::Display for SetDisc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "driver set '{}'", self.set)?;
        match &self.token {
            Some(scope) => write!(f, ", with the licence token of {scope}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scope_has_a_file_and_discs_of_its_own() {
        let uuid = "aaaaaaaa-0000-4000-8000-000000000001";
        let set: DriverSetName = "nvidia-580".parse().unwrap();
        for (scope, stem) in [
            (TokenScope::All, "all".to_owned()),
            (TokenScope::Pool("cad".parse().unwrap()), "pool-cad".into()),
            // Names of pools that look like something else.
            (TokenScope::Pool("all".parse().unwrap()), "pool-all".into()),
            (
                TokenScope::Pool(format!("domain-{uuid}").parse().unwrap()),
                format!("pool-domain-{uuid}"),
            ),
            (
                TokenScope::Domain(uuid.parse().unwrap()),
                format!("domain-{uuid}"),
            ),
        ] {
            let file = format!("{stem}.json");
            assert_eq!(scope.path(), format!("/var/lib/virt-vgpu/tokens/{file}"));
            assert_eq!(TokenScope::of_file(&file), Some(scope.clone()));
            let disc = scope.disc(&set);
            assert_eq!(
                disc,
                format!("/var/lib/virt-vgpu/drivers/nvidia-580/guest-{stem}.iso")
            );
            let read = SetDisc::at(Path::new(&disc)).unwrap();
            assert_eq!((&read.set, &read.token), (&set, &Some(scope)));
        }
        for other in ["", "all", "pool-.json", "pool-A.json", "domain-1.json"] {
            assert_eq!(TokenScope::of_file(other), None, "{other}");
        }
        let plain = SetDisc::at(Path::new(&set.disc())).unwrap();
        assert_eq!(plain.token, None);
        for other in [
            "/srv/nvidia-580/guest.iso",
            "/var/lib/virt-vgpu/drivers/nvidia-580/other.iso",
            "/var/lib/virt-vgpu/drivers/guest.iso",
            "",
        ] {
            assert_eq!(SetDisc::at(Path::new(other)), None, "{other}");
        }
    }
}
