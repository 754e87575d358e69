//! Licence tokens of guests.

use std::io;

use super::{
    Check, Findings, Looks, Severity, Trouble,
    view::{View, says},
};
use crate::driver_set::token;

pub const ENDS: Check = Check {
    id: "licence-token-ends",
    severity: Severity::Warning,
    about: "a licence token for guests has expired, or will within 30 days",
    explanation: "Guests take licences with the token that is on their disc. When it has expired \
        they get none, and a vGPU without a licence becomes slow. Get a new client configuration \
        token from NVIDIA's licensing portal, or from your own licence server, and put it in the \
        place of the old one. VMs get it with their disc at the next start; what guests have \
        copied has to be replaced in them.",
    look: Looks::At(ends),
};

fn ends(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let (tokens, problems) = token::all(view.host)?;
    for one in &tokens {
        let Some(ending) = one.ending() else {
            continue;
        };
        found.add(
            format!("the licence token of {} {ending} (UTC)", one.owner()),
            [says(&one.scope.path(), &ending)],
            "get a new one from NVIDIA's licensing portal, and put it in its place",
            [one.replacement()],
        );
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(io::Error::other(problems.join("; ")).into()),
    }
}
