//! What the host needs of whole IOMMU groups. A function is needed when any function of its
//! group is, so the answer for each of them is a matter of the whole group: here each group
//! is looked at once, however many functions it has.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use super::{
    PCI_DEVICES, Sysfs,
    critical::{HostNeeds, Need},
    iommu, list,
};
use crate::model::PciAddress;

/// What the host needs at one moment, and the answers for the groups that were asked about.
#[derive(Debug)]
pub struct GroupNeeds {
    needs: HostNeeds,
    /// By number.
    groups: RefCell<BTreeMap<String, Rc<Group>>>,
}

/// A group, and what the host needs in it.
#[derive(Debug)]
struct Group {
    number: String,
    needs: Vec<Need>,
}

impl GroupNeeds {
    /// Reads what concerns the whole host, as [`HostNeeds::read`].
    #[must_use]
    pub fn read(sysfs: &dyn Sysfs) -> Self {
        Self {
            needs: HostNeeds::read(sysfs),
            groups: RefCell::default(),
        }
    }

    /// As [`HostNeeds::of`], about a function that is no bridge.
    #[must_use]
    pub fn of(&self, sysfs: &dyn Sysfs, function: PciAddress) -> Option<Need> {
        let Some(group) = self.group(sysfs, function) else {
            return self.needs.of(sysfs, function);
        };
        let own = group.needs.iter().find(|need| need.function == function);
        let need = own.or_else(|| group.needs.first())?;
        Some(group.seen_from(function, need))
    }

    /// As [`HostNeeds::all`], about a function that is no bridge.
    #[must_use]
    pub fn all(&self, sysfs: &dyn Sysfs, function: PciAddress) -> Vec<Need> {
        let Some(group) = self.group(sysfs, function) else {
            return self.needs.all(sysfs, function);
        };
        let all = group.needs.iter();
        let (own, others): (Vec<&Need>, Vec<&Need>) = all.partition(|one| one.function == function);
        let all = own.into_iter().chain(others);
        all.map(|need| group.seen_from(function, need)).collect()
    }

    /// The function's group; None if it has none, or its group cannot be read.
    fn group(&self, sysfs: &dyn Sysfs, function: PciAddress) -> Option<Rc<Group>> {
        let number = iommu::group_of(sysfs, function).ok()??;
        if let Some(known) = self.groups.borrow().get(&number) {
            return Some(Rc::clone(known));
        }
        // The reason why it cannot be read is one of the function that was asked about.
        list(
            sysfs,
            &format!("{PCI_DEVICES}/{function}/iommu_group/devices"),
        )
        .ok()?;
        let mut needs = self.needs.all(sysfs, function);
        // In the order of the addresses, whichever function is asked about first.
        needs.sort_by_key(|need| need.function);
        let group = Rc::new(Group {
            number: number.clone(),
            needs,
        });
        let mut groups = self.groups.borrow_mut();
        groups.insert(number, Rc::clone(&group));
        Some(group)
    }
}

impl Group {
    /// A need as the function has it: its own, or that of another one of the group.
    fn seen_from(&self, function: PciAddress, need: &Need) -> Need {
        let is_other = need.function != function;
        Need {
            group: is_other.then(|| self.number.clone()),
            ..need.clone()
        }
    }
}
