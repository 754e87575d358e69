//! What the agent in a guest tells (`virDomainGetGuestInfo`).

use std::{
    collections::BTreeMap,
    ffi::{CStr, c_int, c_uint},
    ptr::null_mut,
};

use virt::{domain::Domain, error::Error, sys};

/// `VIR_DOMAIN_GUEST_INFO_DEVICES`, of libvirt 12.7.
const DEVICES: c_uint = 1 << 8;

/// A device as the guest's system has it. Only Windows' agent tells of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestDevice {
    /// The driver's name: `NVIDIA RTX Virtual Workstation`.
    pub driver_name: Option<String>,
    /// The driver's version in Windows' form: `32.0.15.8088`.
    pub driver_version: Option<String>,
}

/// The guest's devices. This waits for the agent, which may take for ever.
///
/// # Errors
/// libvirt's reason: without an agent, with one that cannot tell, and with a libvirt before 12.7.
pub fn guest_devices(domain: &Domain) -> Result<Vec<GuestDevice>, Error> {
    let mut parameters = null_mut();
    let mut count: c_int = 0;
    // SAFETY: the domain's pointer is valid as long as the domain is borrowed; libvirt writes an
    // array that is ours, and its length, into the two others, which live until then.
    let done = unsafe {
        sys::virDomainGetGuestInfo(
            domain.as_ptr(),
            DEVICES,
            &raw mut parameters,
            &raw mut count,
            0,
        )
    };
    if done < 0 {
        return Err(Error::last_error());
    }
    let texts = texts(parameters, count);
    // SAFETY: the array is libvirt's, of that length, and nobody has a part of it any more.
    unsafe { sys::virTypedParamsFree(parameters, count) };
    Ok(devices(&texts))
}

/// The texts among the parameters, by their names.
fn texts(parameters: sys::virTypedParameterPtr, count: c_int) -> Vec<(String, String)> {
    let length = usize::try_from(count).unwrap_or_default();
    if parameters.is_null() || length == 0 {
        return Vec::new();
    }
    // SAFETY: libvirt has written so many parameters there, and nothing changes them meanwhile.
    let parameters = unsafe { std::slice::from_raw_parts(parameters, length) };
    let is_text =
        |one: &&sys::virTypedParameter| u32::try_from(one.type_) == Ok(sys::VIR_TYPED_PARAM_STRING);
    let texts = parameters.iter().filter(is_text).filter_map(|one| {
        // SAFETY: a parameter of that type has a text, or nothing.
        let value = unsafe { one.value.s };
        if value.is_null() {
            return None;
        }
        // SAFETY: libvirt ends the name, an array in the parameter, and the text with a NUL.
        let (name, value) = unsafe { (CStr::from_ptr(one.field.as_ptr()), CStr::from_ptr(value)) };
        Some((
            name.to_string_lossy().into_owned(),
            value.to_string_lossy().into_owned(),
        ))
    });
    texts.collect()
}

/// The devices in such texts: `device.0.driverName`, `device.0.driverVersion`.
fn devices(texts: &[(String, String)]) -> Vec<GuestDevice> {
    let mut devices: BTreeMap<u32, GuestDevice> = BTreeMap::new();
    for (name, text) in texts {
        let rest = name.strip_prefix("device.");
        let Some((number, key)) = rest.and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        let device = devices.entry(number).or_default();
        match key {
            "driverName" => device.driver_name = Some(text.clone()),
            "driverVersion" => device.driver_version = Some(text.clone()),
            _ => {}
        }
    }
    devices.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_put_together_again() {
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let found = devices(&[
            text("device.1.driverName", "NVIDIA A16-2B"),
            text("device.0.driverName", "Red Hat VirtIO Ethernet Adapter"),
            text("device.1.driverVersion", "32.0.15.8088"),
            text("device.1.idType", "pci"),
            text("device.count", "2"),
            text("device.x.driverName", "strange"),
            text("os.id", "mswindows"),
        ]);
        let device = |name: &str, version: Option<&str>| GuestDevice {
            driver_name: Some(name.to_owned()),
            driver_version: version.map(ToOwned::to_owned),
        };
        let wanted = [
            device("Red Hat VirtIO Ethernet Adapter", None),
            device("NVIDIA A16-2B", Some("32.0.15.8088")),
        ];
        assert_eq!(found, wanted);
    }
}
