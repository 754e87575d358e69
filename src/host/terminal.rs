//! What is said on stderr: to people at a terminal, and by libvirt in its own errors. Each
//! text is made fit for that here, and one that nobody reads any more is no failure.

use std::io::{self, Write};

use crate::model::visible;

/// Longest line, in characters: what another program said is no reason to bury the rest.
const LONGEST: usize = 8 << 10;

/// Writes one line to stderr, whatever is in the text.
pub fn complain(text: &str) {
    write(&(line(text) + "\n"));
}

/// Writes a question to stderr, without a line break behind it. A question that nobody
/// can read is answered all the same.
#[cfg(feature = "cli")]
pub(crate) fn ask(question: &str) {
    write(&crate::model::visible_lines(question));
}

/// Shows what is wrong with the command line, or the help that was asked for, and returns
/// the exit code for it. The arguments are repeated in such a message.
#[cfg(feature = "cli")]
pub(crate) fn usage(mut error: clap::Error) -> std::process::ExitCode {
    use clap::error::ContextValue;

    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    if error.use_stderr() {
        // A line break in an argument is not one of the message.
        let given: Vec<_> = error
            .context()
            .filter_map(|(kind, value)| {
                Some((
                    kind,
                    match value {
                        ContextValue::String(text) => ContextValue::String(line(text)),
                        ContextValue::Strings(texts) => {
                            ContextValue::Strings(texts.iter().map(|text| line(text)).collect())
                        }
                        _ => return None,
                    },
                ))
            })
            .collect();
        for (kind, value) in given {
            error.insert(kind, value);
        }
        // Colours would be escape sequences among those that must not get through.
        write(&crate::model::visible_lines(&error.render().to_string()));
    } else {
        // No text but ours.
        let _ = error.print();
    }
    std::process::ExitCode::from(code)
}

/// The parser of a directory that exists. A root that does not exist would look like a host
/// without devices, and verbs would make directories in it.
#[cfg(feature = "cli")]
pub(crate) fn directory_there() -> impl clap::builder::TypedValueParser<Value = std::path::PathBuf>
{
    use clap::builder::TypedValueParser as _;

    clap::builder::PathBufValueParser::new().try_map(|path| match path.metadata() {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => Err("it is no directory".to_owned()),
        Err(error) => Err(error.to_string()),
    })
}

fn line(text: &str) -> String {
    let mut line: String = text.chars().take(LONGEST).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    visible(&line).into_owned()
}

fn write(text: &str) {
    // Nobody is left to be told that stderr is closed.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Stderr for log events, a line each.
#[derive(Debug)]
pub(super) struct LogLines;

impl Write for LogLines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        complain(String::from_utf8_lossy(event).trim_end());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
