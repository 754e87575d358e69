//! Answers, as a line.

use std::fmt;

use lab_nvidia_smi::raw::Code;
use nvml_wrapper::error::NvmlError;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// NVML's code.
    Nvml(Code),
    /// The command does not exist, or not with these arguments.
    Words,
    /// NVML has no call for the command.
    Inexpressible,
}

/// The lines of the text.
pub type Answer = Result<Vec<String>, Failure>;

impl From<Code> for Failure {
    fn from(code: Code) -> Self {
        Self::Nvml(code)
    }
}

impl From<NvmlError> for Failure {
    fn from(error: NvmlError) -> Self {
        Self::Nvml(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Nvml(Code(code)) = self else {
            return f.write_str(if *self == Self::Words {
                "EINVAL"
            } else {
                "ENOSYS"
            });
        };
        f.write_str(match code {
            2 => "EINVAL",
            3 => "EOPNOTSUPP",
            4 => "EPERM",
            6 => "ENOENT",
            15 => "ENODEV",
            19 => "EBUSY",
            23 => "ENOSPC",
            code => return write!(f, "EIO {code}"),
        })
    }
}

/// `ok` and the text, or the error.
pub fn one_line(answer: &Answer) -> String {
    match answer {
        Ok(lines) => format!("ok {}", lines.join(";")).trim_end().to_owned(),
        Err(failure) => failure.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_line() {
        let lines = |lines: &[&str]| Ok(lines.iter().map(|&line| line.to_owned()).collect());
        assert_eq!(one_line(&lines(&[])), "ok");
        assert_eq!(
            one_line(&lines(&["mig 0 0", "hetero 1"])),
            "ok mig 0 0;hetero 1"
        );
        assert_eq!(one_line(&Err(Failure::Nvml(Code(23)))), "ENOSPC");
        assert_eq!(one_line(&Err(Failure::Nvml(Code(999)))), "EIO 999");
        assert_eq!(one_line(&Err(Failure::Inexpressible)), "ENOSYS");
    }
}
