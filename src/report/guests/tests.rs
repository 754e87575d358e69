use super::*;

const NOW: [u32; 6] = [2030, 6, 15, 12, 0, 0];

fn guest(driver: GuestDriver, licence: Option<(LicenceState, LicenceTerm)>) -> Option<Guest> {
    let facts = GuestFacts {
        gpu: "0000:41:00.0".parse().unwrap(),
        type_id: "1155".parse().unwrap(),
        vm: None,
        mdev: None,
        driver,
        licence: licence.map(|(state, term)| Licence { state, term }),
    };
    Guest::of(&facts, UtcTime::new(NOW).unwrap())
}

fn in_words(driver: GuestDriver, licence: Option<(LicenceState, LicenceTerm)>) -> String {
    let guest = guest(driver, licence).unwrap();
    format!("{}|{}", guest.driver_in_words(), guest.licence_in_words())
}

#[test]
fn what_is_known_is_told_and_nothing_else() {
    let version = |text: &str| GuestDriver::Version(text.to_owned());
    let licensed = |term| Some((LicenceState::Licensed, term));
    assert_eq!(in_words(version("580.88"), None), "580.88|");
    assert_eq!(in_words(GuestDriver::NotLoaded, None), "not loaded|");
    assert_eq!(guest(GuestDriver::Unknown, None), None);
    assert_eq!(
        guest(
            GuestDriver::Unknown,
            Some((LicenceState::Unknown, LicenceTerm::Permanent))
        ),
        None
    );
    assert_eq!(
        in_words(GuestDriver::Unknown, licensed(LicenceTerm::Unknown)),
        "unknown|licensed"
    );
    // To the second, and a date that is none is no date.
    for (until, words) in [
        (NOW, "licensed until 2030-06-15 12:00 UTC"),
        ([2030, 6, 15, 11, 59, 59], "expired 2030-06-15 11:59 UTC"),
        ([0, 0, 0, 0, 0, 0], "licensed"),
        ([2030, 99, 1, 0, 0, 0], "licensed"),
    ] {
        assert_eq!(
            in_words(version("580.88"), licensed(LicenceTerm::Until(until))),
            format!("580.88|{words}")
        );
    }
}

#[test]
fn a_guest_cannot_fill_the_screen() {
    let text = "5\n".repeat(1000);
    let words = in_words(GuestDriver::Version(text), None);
    assert_eq!(words, format!("{}|", "5\\n".repeat(20)));
}

#[test]
fn types_of_nvidia_are_told_from_others() {
    for (text, number) in [
        ("nvidia-558", Some("558")),
        ("1155", Some("1155")),
        ("i915-GVTg_V5_4", None),
        ("10de:26b9", None),
        ("nvidia-x", None),
    ] {
        let number = number.map(|number| number.parse().unwrap());
        assert_eq!(vgpu_type(&text.parse().unwrap()), number, "{text}");
    }
}
