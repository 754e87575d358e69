//! `/dev/nvidiactl`: a write is a command, whose errno is the status, and a read
//! from the beginning is the answer.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
};

use nix::errno::Errno;

use super::{super::Answer, errno};

const PATH: &str = "/dev/nvidiactl";
const CHUNK: usize = 4096;

/// The file, open.
#[derive(Debug)]
pub(super) struct Client(File);

impl Client {
    pub fn open() -> Result<Self, Errno> {
        let file = OpenOptions::new().read(true).write(true).open(PATH);
        file.map(Self).map_err(|error| errno(&error))
    }

    pub fn into_file(self) -> File {
        self.0
    }

    pub fn ask(&self, line: &str) -> Answer {
        let written = (&self.0).write(line.as_bytes());
        if written.map_err(|error| errno(&error))? != line.len() {
            return Err(Errno::UnknownErrno);
        }
        let mut answer = Vec::new();
        let mut chunk = [0; CHUNK];
        loop {
            let offset = u64::try_from(answer.len()).map_err(|_| Errno::EOVERFLOW)?;
            let read = self.0.read_at(&mut chunk, offset);
            let count = read.map_err(|error| errno(&error))?;
            if count == 0 {
                break;
            }
            answer.extend_from_slice(chunk.get(..count).unwrap_or_default());
        }
        String::from_utf8(answer).map_err(|_| Errno::EILSEQ)
    }
}
