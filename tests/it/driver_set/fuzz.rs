//! The archive reader against archives that were changed at random, in this process, so that
//! there are many. `VIRT_VGPU_FUZZ_SECONDS` says for how long; `tests/cargo-tests` asks for a
//! minute. What fails is told with its seed, which `VIRT_VGPU_FUZZ_SEED` repeats.

use std::{
    io::{Cursor, Seek, SeekFrom, Write},
    time::{Duration, Instant},
};

use virt_vgpu::driver_set::archive;

use super::*;

/// Numbers that a seed gives again (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }
}

/// Where the headers of an archive are: most of what can be wrong is in them.
fn headers(archive: &[u8]) -> Vec<usize> {
    const SIGNATURES: [&[u8]; 3] = [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"];
    let is_header = |at: &usize| SIGNATURES.iter().any(|one| archive[*at..].starts_with(one));
    (0..archive.len()).filter(is_header).collect()
}

fn changed(base: &[u8], headers: &[usize], random: &mut Random) -> Vec<u8> {
    const HEADER: usize = 46;
    const MOST: usize = 12;
    let mut bytes = base.to_vec();
    for _ in 0..random.below(MOST) {
        let at = match random.below(4) {
            0 => random.below(bytes.len()),
            _ => headers[random.below(headers.len())] + random.below(HEADER),
        };
        let values = [
            0,
            1,
            0x7f,
            0x80,
            0xff,
            b'/',
            b'.',
            random.next().to_le_bytes()[0],
        ];
        let value = values[random.below(values.len())];
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
    }
    if random.below(8) == 0 {
        bytes.truncate(random.below(bytes.len()));
    }
    bytes
}

/// Takes as much as it was told, and no more.
struct Bounded {
    left: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = u64::try_from(bytes.len()).unwrap();
        self.left = self
            .left
            .checked_sub(count)
            .expect("more than the entry says");
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn read(bytes: &[u8]) {
    let mut source = Cursor::new(bytes);
    source.seek(SeekFrom::Start(0)).unwrap();
    let Ok((mut archive, listing)) = archive::list(source) else {
        return;
    };
    for entry in &listing.drivers {
        assert!(!entry.part.file.contains('/') && !entry.part.file.starts_with('.'));
        let mut to = Bounded { left: entry.size };
        let _ = archive::take_out(&mut archive, entry, &mut to, &mut |_| {});
    }
}

#[test]
fn no_archive_makes_the_reader_fail() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seconds = number("VIRT_VGPU_FUZZ_SECONDS").unwrap_or(3);
    let bases = [
        Archive::of_nvidia().bytes(),
        Archive::new()
            .with(LINUX, driver(LINUX))
            .with_link("link", "/etc")
            .bytes(),
    ];
    let headers = [headers(&bases[0]), headers(&bases[1])];
    let seeds: Box<dyn Iterator<Item = u64>> = match number("VIRT_VGPU_FUZZ_SEED") {
        Some(seed) => Box::new(std::iter::once(seed)),
        None => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let first = u64::try_from(now.unwrap().as_nanos() & 0xffff_ffff_ffff).unwrap();
            let began = Instant::now();
            let goes_on = move |_: &u64| began.elapsed() < Duration::from_secs(seconds);
            Box::new((first..).take_while(goes_on))
        }
    };
    let mut tried = 0_u64;
    for seed in seeds {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let which = random.below(bases.len());
        let bytes = changed(&bases[which], &headers[which], &mut random);
        let done = std::panic::catch_unwind(|| read(&bytes));
        assert!(done.is_ok(), "VIRT_VGPU_FUZZ_SEED={seed} repeats it");
        tried += 1;
    }
    assert!(tried > 0);
    println!("{tried} archives");
}
