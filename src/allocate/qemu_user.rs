//! The user that QEMU runs as. libvirt gives a CD-ROM of ours no other owner, so a disc that only
//! QEMU may read has to be its user's from the beginning.

use std::{fmt, io};

use crate::{device::Sysfs, host::Host, model::visible};

/// QEMU's driver reads it (`virQEMUDriverConfigLoadSecurityEntry`).
const CONFIG: &str = "/etc/libvirt/qemu.conf";

/// Systems with an image as root file system have their own users in the second one
/// (nss-altfiles).
const PASSWD: [&str; 2] = ["/etc/passwd", "/usr/lib/passwd"];

/// The users that distributions build libvirt with: Debian and Ubuntu, all others.
const DEFAULTS: [&str; 2] = ["libvirt-qemu", "qemu"];

/// QEMU's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuUser {
    /// Its name, or its number as it is written.
    pub name: String,
    /// Its number.
    pub uid: u32,
}

impl fmt::Display for QemuUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.name)
    }
}

impl QemuUser {
    /// The user of `/etc/libvirt/qemu.conf`, else the distribution's, else root.
    ///
    /// # Errors
    /// When a file cannot be read, or the user is not known: a whole message.
    pub fn of(host: &Host) -> Result<Self, String> {
        let config = text(host, CONFIG)?;
        let passwd = PASSWD.map(|path| text(host, path));
        let passwd = passwd
            .into_iter()
            .collect::<Result<Vec<String>, String>>()?;
        let uid = |name: &str| passwd.iter().find_map(|text| uid_of(text, name));
        let known = |name: &str| {
            let uid = uid(name)?;
            let name = name.to_owned();
            Some(Self { name, uid })
        };
        let Some(set) = setting(&config) else {
            let root = Self {
                name: "root".to_owned(),
                uid: 0,
            };
            return Ok(DEFAULTS.into_iter().find_map(known).unwrap_or(root));
        };
        // `virGetUserID`: a plus sign keeps it from being looked up as a name.
        let named = known(set);
        let number = set.strip_prefix('+').unwrap_or(set).parse().ok();
        let numbered = number.map(|uid| Self {
            name: set.to_owned(),
            uid,
        });
        named.or(numbered).ok_or_else(|| {
            format!(
                "user '{}' of {CONFIG}, which QEMU runs as, is not in {}; write its number there, as in \
                 user = \"+64055\"",
                visible(set),
                PASSWD[0]
            )
        })
    }
}

/// A file's text; none for a file that does not exist.
fn text(host: &Host, path: &str) -> Result<String, String> {
    match host.read(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// The setting `user`. The first one counts (`virConfGetValue`).
fn setting(config: &str) -> Option<&str> {
    let values = config.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "user").then(|| value.trim())
    });
    let mut values = values.map(|value| {
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
        match quote {
            Some(quote) => value[1..].split(quote).next().unwrap_or_default(),
            None => value.split('#').next().unwrap_or_default().trim(),
        }
    });
    // An empty one is as none.
    values.next().filter(|value| !value.is_empty())
}

fn uid_of(passwd: &str, name: &str) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(config: &str, passwd: &str) -> Result<(String, u32), String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [(CONFIG, config), (PASSWD[0], passwd)] {
            let path = root.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let altfiles = root.path().join("usr/lib/passwd");
        std::fs::create_dir_all(altfiles.parent().unwrap()).unwrap();
        std::fs::write(altfiles, "image:x:9:9::/:/bin/false\n").unwrap();
        QemuUser::of(&Host::new(root.path())).map(|user| (user.name, user.uid))
    }

    #[test]
    fn as_libvirt_reads_it() {
        const DEBIAN: &str = "root:x:0:0:root:/root:/bin/bash\nlibvirt-qemu:x:64055:994::/:/bin/false\n7:x:8:8::/:/bin/false\n";
        const FEDORA: &str = "qemu:x:107:107:qemu user:/:/sbin/nologin\n";
        for (config, passwd, name, uid) in [
            ("", DEBIAN, "libvirt-qemu", 64055),
            ("", FEDORA, "qemu", 107),
            ("", "root:x:0:0::/:/bin/sh", "root", 0),
            (
                "#user = \"qemu\"\nswtpm_user = \"tss\"\n",
                DEBIAN,
                "libvirt-qemu",
                64055,
            ),
            ("user = \"root\"\ngroup = \"root\"", DEBIAN, "root", 0),
            ("  user='root' # not another one", DEBIAN, "root", 0),
            ("user = \"+0\"", DEBIAN, "+0", 0),
            ("user=\"1000\"", DEBIAN, "1000", 1000),
            // A name of digits is a name, unless there is a plus sign.
            ("user = \"7\"", DEBIAN, "7", 8),
            ("user = \"+7\"", DEBIAN, "+7", 7),
            ("user = 1000 # as a number", DEBIAN, "1000", 1000),
            ("user = \"\"", DEBIAN, "libvirt-qemu", 64055),
            ("user = \"image\"", DEBIAN, "image", 9),
            ("user = \"root\"\nuser = \"image\"", DEBIAN, "root", 0),
        ] {
            assert_eq!(user(config, passwd), Ok((name.to_owned(), uid)), "{config}");
        }
        insta::assert_snapshot!(user("user = \"who\"", DEBIAN).unwrap_err(), @r#"user 'who' of /etc/libvirt/qemu.conf, which QEMU runs as, is not in /etc/passwd; write its number there, as in user = "+64055""#);
    }
}
