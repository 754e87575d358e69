//! The command line. The options are nvidia-smi's own, long names with one dash, so they are
//! read word by word.

use std::iter::Peekable;

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Usage,
    Table,
    List,
    Query,
    SetMig(bool),
    Reset,
    Vgpu(Vgpu),
    Mig(Mig),
}

/// `nvidia-smi vgpu`
#[derive(Debug, PartialEq, Eq)]
pub enum Vgpu {
    Table,
    Query,
    Supported { verbose: bool },
    Creatable { verbose: bool },
    SetHeterogeneous(bool),
    ShowHeterogeneous,
}

/// `nvidia-smi mig`
#[derive(Debug, PartialEq, Eq)]
pub enum Mig {
    Instances,
    Profiles,
    Create {
        profiles: Vec<String>,
        compute: bool,
    },
    Destroy,
    DestroyCompute,
}

/// The whole line.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub action: Action,
    /// `-i`: index, bus id or UUID.
    pub gpu: Option<String>,
    /// `-gi`
    pub gi: Option<u32>,
}

pub const USAGE: &str = "\
usage: nvidia-smi                              a table of the GPUs
       nvidia-smi -L                           their names and UUIDs
       nvidia-smi -q [-i GPU]                  all about them
       nvidia-smi -mig 0|1 [-i GPU]            MIG mode
       nvidia-smi -r [-i GPU]                  reset
       nvidia-smi vgpu [-i GPU]                a table of the active vGPUs
       nvidia-smi vgpu -q [-i GPU] [-gi ID]    all about them
       nvidia-smi vgpu -s|-c [-v] [-i GPU] [-gi ID]
                                               supported or creatable types
       nvidia-smi vgpu -shm 0|1 [-i GPU] [-gi ID]
       nvidia-smi vgpu -ghm [-i GPU] [-gi ID]  heterogeneous mode
       nvidia-smi mig -lgi|-lgip [-i GPU]      GPU instances, their profiles
       nvidia-smi mig -cgi PROFILE[:START],... [-C] [-i GPU]
       nvidia-smi mig -dgi|-dci [-gi ID] [-i GPU]
GPU is an index, a bus id or a UUID. The exit status is NVML's return code.";

/// Reads the words after the program's name.
///
/// # Errors
/// What is wrong with them.
pub fn parse(words: impl Iterator<Item = String>) -> Result<Line, String> {
    let mut words = words.peekable();
    let mut line = Line {
        action: Action::Table,
        gpu: None,
        gi: None,
    };
    match words.peek().map(String::as_str) {
        Some("vgpu") => {
            words.next();
            line.action = Action::Vgpu(Vgpu::Table);
        }
        // The command shows nothing by itself.
        Some("mig") => {
            words.next();
            if words.peek().is_none() {
                line.action = Action::Usage;
                return Ok(line);
            }
            line.action = Action::Mig(Mig::Instances);
        }
        _ => {}
    }
    let (mut verbose, mut compute) = (false, false);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-h" | "--help" => line.action = Action::Usage,
            "-i" | "--id" => line.gpu = Some(value(&word, &mut words)?),
            "-gi" | "--gpu-instance-id" => line.gi = Some(number(&word, &mut words)?),
            "-v" | "--verbose" => verbose = true,
            "-C" | "--default-compute-instance" => compute = true,
            _ => line.action = action(&line.action, &word, &mut words)?,
        }
    }
    match &mut line.action {
        Action::Vgpu(Vgpu::Supported { verbose: to } | Vgpu::Creatable { verbose: to }) => {
            *to = verbose;
        }
        Action::Mig(Mig::Create { compute: to, .. }) => *to = compute,
        _ => {}
    }
    Ok(line)
}

fn action(
    so_far: &Action,
    word: &str,
    words: &mut Peekable<impl Iterator<Item = String>>,
) -> Result<Action, String> {
    Ok(match (so_far, word) {
        (Action::Vgpu(_), "-q" | "--query") => Action::Vgpu(Vgpu::Query),
        (Action::Vgpu(_), "-s" | "--supported") => Action::Vgpu(Vgpu::Supported { verbose: false }),
        (Action::Vgpu(_), "-c" | "--creatable") => Action::Vgpu(Vgpu::Creatable { verbose: false }),
        (Action::Vgpu(_), "-shm" | "--set-vgpu-heterogeneous-mode") => {
            Action::Vgpu(Vgpu::SetHeterogeneous(switch(word, words)?))
        }
        (Action::Vgpu(_), "-ghm" | "--get-vgpu-heterogeneous-mode") => {
            Action::Vgpu(Vgpu::ShowHeterogeneous)
        }
        (Action::Mig(_), "-lgi" | "--list-gpu-instances") => Action::Mig(Mig::Instances),
        (Action::Mig(_), "-lgip" | "--list-gpu-instance-profiles") => Action::Mig(Mig::Profiles),
        (Action::Mig(_), "-cgi" | "--create-gpu-instance") => Action::Mig(Mig::Create {
            profiles: value(word, words)?.split(',').map(str::to_owned).collect(),
            compute: false,
        }),
        (Action::Mig(_), "-dgi" | "--destroy-gpu-instance") => Action::Mig(Mig::Destroy),
        (Action::Mig(_), "-dci" | "--destroy-compute-instance") => Action::Mig(Mig::DestroyCompute),
        (Action::Table, "-L" | "--list-gpus") => Action::List,
        (Action::Table, "-q" | "--query") => Action::Query,
        (Action::Table, "-r" | "--gpu-reset") => Action::Reset,
        (Action::Table, "-mig" | "--multi-instance-gpu") => Action::SetMig(switch(word, words)?),
        _ => {
            return Err(format!(
                "Invalid combination of input arguments at '{word}'."
            ));
        }
    })
}

fn value(option: &str, words: &mut impl Iterator<Item = String>) -> Result<String, String> {
    let value = words.next();
    value.ok_or_else(|| format!("Option '{option}' lacks its value."))
}

fn number(option: &str, words: &mut impl Iterator<Item = String>) -> Result<u32, String> {
    let value = value(option, words)?;
    let number = value.parse();
    number.map_err(|_| format!("'{value}' is no number for '{option}'."))
}

fn switch(option: &str, words: &mut impl Iterator<Item = String>) -> Result<bool, String> {
    match number(option, words)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(format!("'{other}' is neither 0 nor 1 for '{option}'.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Line, String> {
        parse(text.split_whitespace().map(str::to_owned))
    }

    fn plain(action: Action) -> Result<Line, String> {
        Ok(Line {
            action,
            gpu: None,
            gi: None,
        })
    }

    #[test]
    fn lines_are_understood() {
        assert_eq!(line(""), plain(Action::Table));
        assert_eq!(line("-L"), plain(Action::List));
        assert_eq!(line("-mig 1"), plain(Action::SetMig(true)));
        assert_eq!(line("-r"), plain(Action::Reset));
        assert_eq!(line("vgpu"), plain(Action::Vgpu(Vgpu::Table)));
        assert_eq!(line("mig"), plain(Action::Usage));
        assert_eq!(line("mig -lgip"), plain(Action::Mig(Mig::Profiles)));
        let creatable = Action::Vgpu(Vgpu::Creatable { verbose: true });
        assert_eq!(
            line("vgpu -c -v -i 1 -gi 2"),
            Ok(Line {
                action: creatable,
                gpu: Some("1".to_owned()),
                gi: Some(2),
            })
        );
        let create = Mig::Create {
            profiles: vec!["47:3".to_owned(), "1g.24gb+gfx".to_owned()],
            compute: true,
        };
        assert_eq!(
            line("mig -cgi 47:3,1g.24gb+gfx -C"),
            plain(Action::Mig(create))
        );
    }

    #[test]
    fn other_lines_are_refused() {
        for text in [
            "x",
            "-L -q",
            "-mig",
            "-mig 2",
            "vgpu -lgi",
            "mig -shm 1",
            "-i",
            "vgpu -gi x",
        ] {
            assert!(line(text).is_err(), "{text}");
        }
    }
}
