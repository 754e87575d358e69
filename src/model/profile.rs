//! The parts of a vGPU type's name: board, slice of the board, size, series.

use std::fmt;

/// The series of a vGPU type: what its licence allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Series {
    /// Applications streamed to users.
    A,
    /// Business desktops.
    B,
    /// Compute.
    C,
    /// Workstations.
    Q,
}

impl Series {
    fn of(letter: char) -> Option<Self> {
        match letter {
            'A' => Some(Self::A),
            'B' => Some(Self::B),
            'C' => Some(Self::C),
            'Q' => Some(Self::Q),
            _ => None,
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::Q => "Q",
        })
    }
}

/// The parts of a short name: `BOARD-GBs` for a time-sliced type, `BOARD-SLICES-GBs`
/// for a type in a GPU instance, where `s` is the series. The name of a type in a GPU
/// instance may end with the media engines of its instance (`H100-1-10CME`).
///
/// NVIDIA documents no grammar. This one is used by NVIDIA's own tools
/// (`vgpu-device-manager`). A board's name may contain hyphens (`RTX6000-Ada-4Q`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileParts<'a> {
    /// The board, as in type names: `L40S`, `DC` (RTX PRO 6000), `A100D`.
    pub board: &'a str,
    /// Compute slices of the GPU instance; None: time-sliced.
    pub slices: Option<u8>,
    /// Frame buffer in GB, as in the name; 0 stands for 512 MiB. Only the driver knows
    /// the exact size.
    pub gigabytes: u16,
    /// The series.
    pub series: Series,
    /// The rest of the name: `ME`, `NOME`, `MEALL`, `GFX` or nothing.
    pub suffix: &'a str,
}

/// Suffixes of types in GPU instances.
const SUFFIXES: [&str; 5] = ["", "ME", "NOME", "MEALL", "GFX"];

impl<'a> ProfileParts<'a> {
    /// Splits a name, with or without the product in front; None for a name of another
    /// form.
    #[must_use]
    pub fn of(name: &'a str) -> Option<Self> {
        let (front, size) = short_name(name).rsplit_once('-')?;
        let (gigabytes, rest) = leading_number(size)?;
        let series = Series::of(rest.chars().next()?)?;
        let suffix = rest.get(1..)?;
        let (board, slices) = match front.rsplit_once('-') {
            Some((board, slices)) if is_digit(slices) => (board, Some(slices.parse().ok()?)),
            _ => (front, None),
        };
        let known = match slices {
            Some(_) => SUFFIXES.contains(&suffix),
            None => suffix.is_empty(),
        };
        let whole = known && !board.is_empty() && !board.starts_with('-');
        whole.then_some(Self {
            board,
            slices,
            gigabytes,
            series,
            suffix,
        })
    }
}

impl fmt::Display for ProfileParts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.board)?;
        if let Some(slices) = self.slices {
            write!(f, "{slices}-")?;
        }
        write!(f, "{}{}{}", self.gigabytes, self.series, self.suffix)
    }
}

fn is_digit(text: &str) -> bool {
    matches!(text.as_bytes(), [b'1'..=b'9'])
}

/// A decimal number without leading zeros, and the rest of the text.
fn leading_number(text: &str) -> Option<(u16, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, rest) = text.split_at(end);
    let padded = digits.len() > 1 && digits.starts_with('0');
    let number = digits.parse().ok()?;
    (!padded).then_some((number, rest))
}

/// A type's name without the product: everything after the last space, since no type's
/// own name contains one.
#[must_use]
pub fn short_name(type_name: &str) -> &str {
    type_name.rsplit(' ').next().unwrap_or(type_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(name: &str) -> Option<(&str, Option<u8>, u16, Series, &str)> {
        let parts = ProfileParts::of(name)?;
        let ProfileParts {
            board,
            slices,
            gigabytes,
            series,
            suffix,
        } = parts;
        Some((board, slices, gigabytes, series, suffix))
    }

    #[test]
    fn names_are_taken_apart() {
        use Series::{A, B, C, Q};
        for (name, wanted) in [
            ("NVIDIA L40S-12Q", ("L40S", None, 12, Q, "")),
            ("A16-4Q", ("A16", None, 4, Q, "")),
            ("GRID T4-2B", ("T4", None, 2, B, "")),
            ("GRID M60-0B", ("M60", None, 0, B, "")),
            ("L40S-1A", ("L40S", None, 1, A, "")),
            ("NVIDIA RTX6000-Ada-48C", ("RTX6000-Ada", None, 48, C, "")),
            ("H200X-141C", ("H200X", None, 141, C, "")),
            (
                "NVIDIA RTX Pro 6000 Blackwell DC-3Q",
                ("DC", None, 3, Q, ""),
            ),
            (
                "NVIDIA RTX Pro 6000 Blackwell DC-1-24Q",
                ("DC", Some(1), 24, Q, ""),
            ),
            ("GRID A100-1-5CME", ("A100", Some(1), 5, C, "ME")),
            ("B200-2-45CNOME", ("B200", Some(2), 45, C, "NOME")),
            ("H100-7-80C", ("H100", Some(7), 80, C, "")),
        ] {
            assert_eq!(parts(name), Some(wanted), "{name}");
        }
    }

    #[test]
    fn other_names_have_no_parts() {
        for name in [
            "",
            "-",
            "L40S",
            "L40S-",
            "L40S-Q",
            "L40S-12",
            "L40S-12X",
            "L40S-12QME",
            "-12Q",
            "--12Q",
            "-1-12Q",
            "A100-1-5CXX",
            "L40S-012Q",
            "L40S-99999Q",
            "L40S-12ü",
            "L40S-12Q ",
            "Single port serial",
        ] {
            assert_eq!(parts(name), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn no_name_panics(name: String) {
            let _ = ProfileParts::of(&name);
        }

        #[test]
        fn what_is_taken_apart_is_put_together_again(
            name in "([A-Z][A-Z0-9]{0,4}-){1,2}([0-9]-)?[0-9]{1,3}[A-DQ](ME|NOME|MEALL|GFX|X)?",
        ) {
            if let Some(parts) = ProfileParts::of(&name) {
                prop_assert_eq!(parts.to_string(), name);
            }
        }

        #[test]
        fn every_combination_is_read_back(
            board in "[A-Z][A-Z0-9]{0,5}(-Ada)?",
            slices in proptest::option::of(1u8..10),
            gigabytes: u16,
            letter in proptest::sample::select(vec!['A', 'B', 'C', 'Q']),
            suffix in proptest::sample::select(SUFFIXES.to_vec()),
        ) {
            let parts = ProfileParts {
                board: &board,
                slices,
                gigabytes,
                series: Series::of(letter).unwrap(),
                suffix: if slices.is_some() { suffix } else { "" },
            };
            let name = parts.to_string();
            prop_assert_eq!(ProfileParts::of(&name), Some(parts));
            let full = format!("NVIDIA Some {name}");
            prop_assert_eq!(ProfileParts::of(&full), Some(parts));
        }
    }
}
