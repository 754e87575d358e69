//! libvirt's hook protocol: four arguments and the domain XML on stdin
//! (`src/util/virhook.c`, <https://libvirt.org/hooks.html>).

use std::ffi::{OsStr, OsString};

use crate::model::{DomainName, InvalidName};

/// The operations that we handle, with their sub-operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `prepare begin`: before libvirt looks at any host device.
    Prepare,
    /// `migrate begin`: on the destination, before `prepare`.
    Migrate,
    /// `restore begin`: before `prepare`, which makes the devices. A failure here costs
    /// the user the saved state: libvirt 11.3 then treats the domain as restored and
    /// deletes the managed save (`qemuDomainObjRestore`).
    Restore,
    /// `start begin`: QEMU's command line is ready.
    Start,
    /// `started begin`: the vCPUs run.
    Started,
    /// `stopped end`: QEMU is gone.
    Stopped,
    /// `release end`: libvirt has released everything.
    Release,
    /// `reconnect begin`: libvirtd has restarted. A failure kills the VM.
    Reconnect,
    /// `attach begin`: a QEMU started by hand was taken over.
    Attach,
}

impl Operation {
    /// Every operation with the words libvirt uses for it.
    const WORDS: [(&'static str, &'static str, Self); 9] = [
        ("prepare", "begin", Self::Prepare),
        ("migrate", "begin", Self::Migrate),
        ("restore", "begin", Self::Restore),
        ("start", "begin", Self::Start),
        ("started", "begin", Self::Started),
        ("stopped", "end", Self::Stopped),
        ("release", "end", Self::Release),
        ("reconnect", "begin", Self::Reconnect),
        ("attach", "begin", Self::Attach),
    ];

    /// Whether the domain is about to get its devices, so that a failure must refuse
    /// the start. Any other failure is logged and affects no VM.
    #[must_use]
    pub fn allocates(self) -> bool {
        matches!(self, Self::Prepare | Self::Migrate)
    }

    /// Whether the domain is gone and its devices are given back.
    #[must_use]
    pub fn gives_back(self) -> bool {
        matches!(self, Self::Stopped | Self::Release)
    }

    /// libvirt's words for the operation, for messages.
    #[must_use]
    pub fn words(self) -> String {
        let (operation, step, _) = Self::WORDS
            .iter()
            .find(|(.., known)| *known == self)
            .copied()
            .unwrap_or(("", "", self));
        format!("{operation} {step}")
    }
}

/// One call of the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCall {
    /// The domain's name (argument 1).
    pub domain: DomainName,
    /// The operation (arguments 2 and 3).
    pub operation: Operation,
    /// Argument 4: why a domain is released; `-` for no reason.
    pub reason: String,
}

/// The meaning of the arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// A call that we handle.
    Call(HookCall),
    /// A call that we would handle, but for a domain with an unsupported name: libvirt
    /// forbids `/` and line feeds, we forbid every control character.
    Misnamed {
        /// The operation.
        operation: Operation,
        /// What is wrong with the name.
        cause: InvalidName,
    },
    /// An operation that we do not handle, or one of a future libvirt.
    Nothing,
    /// Not libvirt's protocol; the error text.
    Usage(String),
}

impl Invocation {
    /// Reads the arguments after the program's name.
    #[must_use]
    pub fn parse(arguments: &[OsString]) -> Self {
        let Some(([domain, operation, step], rest)) = arguments.split_first_chunk::<3>() else {
            return Self::Usage("expected DOMAIN OPERATION SUB-OPERATION [EXTRA]".to_owned());
        };
        let known = Operation::WORDS
            .iter()
            .find(|(o, s, _)| operation == o && step == s);
        let Some((_, _, operation)) = known.copied() else {
            return Self::Nothing;
        };
        let reason = rest
            .first()
            .map_or("-".into(), |text| text.to_string_lossy());
        match domain_name(domain) {
            Ok(domain) => Self::Call(HookCall {
                domain,
                operation,
                reason: reason.into_owned(),
            }),
            Err(cause) => Self::Misnamed { operation, cause },
        }
    }
}

fn domain_name(argument: &OsStr) -> Result<DomainName, InvalidName> {
    match argument.to_str() {
        Some(name) => name.parse(),
        None => Err(InvalidName::new(
            "a domain name",
            &argument.to_string_lossy(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Invocation {
        Invocation::parse(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn every_operation_of_ours_is_found_by_libvirts_words() {
        for (operation, step, wanted) in Operation::WORDS {
            let Invocation::Call(call) = parse(&["vm 1", operation, step, "-"]) else {
                panic!("{operation} {step}");
            };
            assert_eq!((call.operation, call.domain.as_str()), (wanted, "vm 1"));
            assert_eq!(wanted.words(), format!("{operation} {step}"));
        }
    }

    #[test]
    fn what_is_not_ours_is_nothing_and_what_is_not_libvirts_is_usage() {
        assert_eq!(parse(&["vm1", "prepare", "end", "-"]), Invocation::Nothing);
        assert_eq!(
            parse(&["vm1", "invented", "begin", "-"]),
            Invocation::Nothing
        );
        assert!(matches!(parse(&["vm1", "prepare"]), Invocation::Usage(_)));
        assert!(matches!(parse(&[]), Invocation::Usage(_)));
    }

    /// Whether we refuse depends on what the domain asks for.
    #[test]
    fn a_name_that_is_not_ours_to_work_with_is_no_usage_error() {
        for name in ["a\tb", "a\u{7f}b", "a/b", ""] {
            let call = parse(&[name, "reconnect", "begin", "-"]);
            let Invocation::Misnamed { operation, .. } = call else {
                panic!("{call:?}");
            };
            assert_eq!(operation, Operation::Reconnect);
            assert_eq!(parse(&[name, "prepare", "end", "-"]), Invocation::Nothing);
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_no_usage_error() {
        use std::os::unix::ffi::OsStringExt;
        let bytes = || OsString::from_vec(b"a\xffb".to_vec());
        let call = |at: usize| {
            let words = ["vm1", "release", "end", "failed"];
            let mut arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
            arguments[at] = bytes();
            Invocation::parse(&arguments)
        };
        assert_eq!(
            call(0),
            Invocation::Misnamed {
                operation: Operation::Release,
                cause: InvalidName::new("a domain name", "a\u{fffd}b"),
            }
        );
        assert_eq!(call(1), Invocation::Nothing);
        assert_eq!(call(2), Invocation::Nothing);
        let Invocation::Call(call) = call(3) else {
            panic!("{:?}", call(3));
        };
        assert_eq!(call.reason, "a\u{fffd}b");
    }

    #[test]
    fn a_failure_refuses_only_where_devices_are_handed_out() {
        for (_, _, operation) in Operation::WORDS {
            let refuses = matches!(operation, Operation::Prepare | Operation::Migrate);
            assert_eq!(operation.allocates(), refuses, "{operation:?}");
        }
    }
}
