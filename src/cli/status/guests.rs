//! NVIDIA's driver in the guests, as a table.

use crate::{cli::output::Table, report::ClaimReport};

/// A row for each device of which something is known.
pub(super) fn table(claims: &[ClaimReport]) -> Table {
    let mut table = Table::new(&["DOMAIN", "DEVICE", "GUEST DRIVER", "LICENCE"]);
    for claim in claims {
        for device in &claim.devices {
            let Some(guest) = &device.guest else { continue };
            table.row([
                claim.domain.to_string(),
                device.name.to_string(),
                guest.driver_in_words().to_owned(),
                guest.licence_in_words(),
            ]);
        }
    }
    table
}
