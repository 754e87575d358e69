//! Lists that change between two calls. Everything else needs a library, and is tested
//! with the program (`tests/it/nvml.rs`).
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use std::cell::RefCell;

use super::*;

/// A driver that returns each of these lists in turn, then always the last one. Like
/// NVIDIA's, it writes the length, and the ids only if they fit.
fn driver(lists: &[&[u32]]) -> impl Fn(&mut [c_uint]) -> (Answer<()>, c_uint, usize) {
    let state = RefCell::new(lists.iter().map(|list| list.to_vec()).collect::<Vec<_>>());
    move |room| {
        let mut lists = state.borrow_mut();
        let list = if lists.len() > 1 {
            lists.remove(0)
        } else {
            lists[0].clone()
        };
        let fits = room.len() >= list.len();
        if fits {
            room[..list.len()].copy_from_slice(&list);
        }
        let code = if fits {
            Ok(())
        } else {
            Err(Error::Code(INSUFFICIENT_SIZE))
        };
        (code, count(&list), lists.len())
    }
}

#[test]
fn lists_of_all_lengths() {
    for list in [&[][..], &[7], &[7, 8, 9]] {
        assert_eq!(ids(driver(&[list])), Ok((list.to_vec(), 1)));
    }
}

#[test]
fn a_list_that_becomes_shorter_has_no_zeros_behind_its_end() {
    assert_eq!(ids(driver(&[&[7, 8, 9], &[7]])).unwrap().0, [7]);
    assert_eq!(ids(driver(&[&[7, 8, 9], &[]])).unwrap().0, []);
}

#[test]
fn a_list_that_becomes_longer_is_asked_for_again() {
    assert_eq!(ids(driver(&[&[7], &[7, 8]])).unwrap().0, [7, 8]);
    let without_end: Vec<Vec<u32>> = (1..20).map(|length| vec![1; length]).collect();
    let without_end: Vec<&[u32]> = without_end.iter().map(Vec::as_slice).collect();
    assert_eq!(
        ids(driver(&without_end)),
        Err(Error::Code(INSUFFICIENT_SIZE))
    );
}

#[test]
fn a_driver_that_only_counts_at_first() {
    let asked = RefCell::new(0);
    let found = ids(|room| {
        *asked.borrow_mut() += 1;
        room.fill(5);
        (Ok(()), 2, ())
    });
    assert_eq!((found, asked.into_inner()), (Ok((vec![5, 5], ())), 2));
}

#[test]
fn any_other_error_is_the_answer() {
    let found = ids(|_| (Err(Error::Code(NOT_SUPPORTED)), 4, ()));
    assert_eq!(found, Err(Error::Code(NOT_SUPPORTED)));
}

/// The numbers that NVML compares with its own.
#[test]
fn versions_are_those_of_nvmls_header() {
    assert_eq!(version::<nvmlVgpuHeterogeneousMode_v1_t>(1), 0x100_0008);
    assert_eq!(version::<nvmlVgpuPlacementId_v1_t>(1), 0x100_0008);
    assert_eq!(version::<nvmlVgpuPlacementList_v1_t>(1), 0x100_0018);
    assert_eq!(version::<nvmlVgpuPlacementList_v2_t>(2), 0x200_0020);
}

#[test]
fn the_wrappers_errors_keep_their_numbers() {
    for code in (1..=29).chain([999]) {
        assert_eq!(Error::from(NvmlError::from(code)), Error::Code(code));
    }
    let missing = NvmlError::FailedToLoadSymbol("undefined symbol: nvmlX".to_owned());
    assert_eq!(
        Error::from(missing),
        Error::NoSymbol("undefined symbol: nvmlX".to_owned())
    );
}
