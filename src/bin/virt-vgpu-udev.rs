//! The answer to udev about a device; see [`virt_vgpu::udev`]. It never fails an event:
//! whatever happens, it prints what it knows and exits with 0.

use std::io::Write;

use virt_vgpu::{host::Host, udev};

fn main() {
    // The default report would be an error in udev's log at every event.
    std::panic::set_hook(Box::new(|_| {}));
    let said = std::panic::catch_unwind(|| {
        let name = std::env::args().nth(1)?;
        udev::properties(&Host::from_environment(), &name)
    });
    if let Ok(Some(line)) = said {
        // udev may have stopped reading.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}
