//! The commands of `/dev/nvidiactl` over a Unix socket, for tests of programs that load
//! the library without a kernel module: the test serves the twin. A command is a line;
//! its answer is a line with errno and length, and then the text.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
};

use nix::errno::Errno;

use crate::control::{Control, errno};

/// The variable with the socket that the library uses instead of the device.
pub const VARIABLE: &str = "LAB_NVIDIACTL";

/// The library's end.
#[derive(Debug)]
pub struct Socket(BufReader<UnixStream>);

impl Socket {
    /// Connects to the server at `path`.
    ///
    /// # Errors
    /// The errno of `connect`; `ENOENT` when there is no server.
    pub fn connect(path: &Path) -> Result<Self, Errno> {
        let stream = UnixStream::connect(path).map_err(|error| errno(&error))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn exchange(&mut self, line: &str) -> io::Result<(i32, Vec<u8>)> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut head = String::new();
        self.0.read_line(&mut head)?;
        let numbers = head.trim_end().split_once(' ');
        let numbers =
            numbers.and_then(|(status, length)| Some((status.parse().ok()?, length.parse().ok()?)));
        let (status, length): (i32, usize) = numbers.ok_or(io::ErrorKind::InvalidData)?;
        let mut text = vec![0; length];
        self.0.read_exact(&mut text)?;
        Ok((status, text))
    }
}

impl Control for Socket {
    fn command(&mut self, line: &str) -> Result<String, Errno> {
        let (status, text) = self.exchange(line).map_err(|error| errno(&error))?;
        if status != 0 {
            return Err(Errno::from_raw(status));
        }
        String::from_utf8(text).map_err(|_| Errno::EILSEQ)
    }
}

/// Serves the next library that connects, until it closes.
///
/// # Errors
/// The errors of the socket.
pub fn serve_one(listener: &UnixListener, control: &mut dyn Control) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let lines = BufReader::new(stream.try_clone()?).lines();
    for line in lines {
        let (status, text) = match control.command(&line?) {
            Ok(text) => (0, text),
            Err(errno) => (errno as i32, String::new()),
        };
        let answer = format!("{status} {}\n{text}", text.len());
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}
