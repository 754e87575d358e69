use super::*;

const BEST_EFFORT: Scheduler = Scheduler {
    policy: SchedulerPolicy::BestEffort,
    strict_round_robin: None,
    averaging_factor: None,
    frequency: None,
    time_slice_ns: None,
};

const STRICT: Scheduler = Scheduler {
    policy: SchedulerPolicy::EqualShare,
    strict_round_robin: Some(true),
    averaging_factor: Some(33),
    frequency: Some(480),
    time_slice_ns: None,
};

const SLICES: Scheduler = Scheduler {
    policy: SchedulerPolicy::FixedShare,
    strict_round_robin: Some(false),
    averaging_factor: None,
    frequency: None,
    time_slice_ns: Some(2_000_000),
};

fn limits() -> SchedulerLimits {
    SchedulerLimits {
        policies: vec![SchedulerPolicy::BestEffort, SchedulerPolicy::EqualShare],
        strict_round_robin: true,
        time_slice_ns: (1_000_000, 30_000_000),
        frequency: (63, 960),
        averaging_factor: (1, 60),
    }
}

fn refused(wanted: Scheduler) -> String {
    limits::check(wanted, Some(&limits())).unwrap_err()
}

#[test]
fn what_a_card_takes() {
    let equal = Scheduler {
        policy: SchedulerPolicy::EqualShare,
        ..SLICES
    };
    for wanted in [BEST_EFFORT, STRICT, equal] {
        assert_eq!(limits::check(wanted, Some(&limits())), Ok(()), "{wanted:?}");
    }
    // Without known limits, only impossible settings are refused.
    assert_eq!(limits::check(SLICES, None), Ok(()));
}

#[test]
fn what_a_card_does_not_take_is_refused_with_its_limits() {
    assert_eq!(
        refused(SLICES),
        "policy fixed-share, but the card accepts best-effort, equal-share"
    );
    let slice = Scheduler {
        policy: SchedulerPolicy::EqualShare,
        time_slice_ns: Some(999_999),
        ..SLICES
    };
    assert_eq!(
        refused(slice),
        "time slice 999999 ns, but the card accepts 1000000 to 30000000"
    );
    let frequency = Scheduler {
        frequency: Some(961),
        ..STRICT
    };
    assert_eq!(
        refused(frequency),
        "frequency 961 Hz, but the card accepts 63 to 960"
    );
    let factor = Scheduler {
        averaging_factor: Some(0),
        ..STRICT
    };
    assert_eq!(
        refused(factor),
        "averaging factor 0, but the card accepts 1 to 60"
    );
    let without = SchedulerLimits {
        strict_round_robin: false,
        ..limits()
    };
    assert_eq!(
        limits::check(STRICT, Some(&without)).unwrap_err(),
        "the card has no strict round robin"
    );
}

#[test]
fn what_contradicts_itself_is_refused_by_any_card() {
    let of = |policy, strict_round_robin, frequency, time_slice_ns| Scheduler {
        policy,
        strict_round_robin,
        averaging_factor: None,
        frequency,
        time_slice_ns,
    };
    let (best, equal) = (SchedulerPolicy::BestEffort, SchedulerPolicy::EqualShare);
    for (wanted, why) in [
        (
            of(best, Some(true), None, None),
            "best effort has no parameters",
        ),
        (
            of(best, None, None, Some(2_000_000)),
            "best effort has no parameters",
        ),
        (
            of(equal, None, Some(480), None),
            "averaging factor and frequency need strict round robin",
        ),
        (
            of(equal, Some(true), None, Some(2_000_000)),
            "a time slice needs strict round robin to be off",
        ),
    ] {
        assert_eq!(limits::check(wanted, None), Err(why.to_owned()));
    }
}

#[test]
fn a_state_is_read_in_either_interface() {
    let state = |policy, arr, factor, time_slice| raw::SchedulerState {
        policy,
        arr,
        factor,
        time_slice,
    };
    let default = Scheduler {
        policy: SchedulerPolicy::EqualShare,
        ..BEST_EFFORT
    };
    for (state, scheduler) in [
        // This policy does not use the parameters.
        (state(1, Some(2), 33, 2_083_333), Some(BEST_EFFORT)),
        (state(2, Some(0), 0, 0), Some(default)),
        (state(2, Some(2), 33, 2_083_333), Some(STRICT)),
        (state(2, None, 33, 2_083_333), Some(STRICT)),
        (state(3, Some(1), 0, 2_000_000), Some(SLICES)),
        (state(0, Some(0), 0, 0), None),
        (state(4, None, 0, 0), None),
    ] {
        assert_eq!(from_nvml(state), scheduler, "{state:?}");
    }
}

/// Every frequency can be computed again from the driver's time slice.
#[test]
fn frequencies_survive_being_told_as_time_slices() {
    for frequency in 63..=960 {
        let time_slice = NS_PER_SECOND / frequency;
        let state = raw::SchedulerState {
            policy: 2,
            arr: Some(ARR_ON),
            factor: 33,
            time_slice,
        };
        let found = from_nvml(state).and_then(|scheduler| scheduler.frequency);
        assert_eq!(found, Some(frequency));
    }
}

#[test]
fn only_what_was_asked_for_and_is_told_can_differ() {
    let silent = Scheduler {
        averaging_factor: None,
        frequency: None,
        ..STRICT
    };
    assert!(agrees(STRICT, STRICT) && agrees(silent, STRICT) && agrees(STRICT, silent));
    let nearly = Scheduler {
        frequency: Some(481),
        ..STRICT
    };
    assert!(agrees(STRICT, nearly));
    for other in [
        Scheduler {
            policy: SchedulerPolicy::FixedShare,
            ..STRICT
        },
        Scheduler {
            strict_round_robin: Some(false),
            ..STRICT
        },
        Scheduler {
            averaging_factor: Some(34),
            ..STRICT
        },
        Scheduler {
            frequency: Some(482),
            ..STRICT
        },
    ] {
        assert!(!agrees(STRICT, other), "{other:?}");
    }
    let slower = Scheduler {
        time_slice_ns: Some(2_000_001),
        ..SLICES
    };
    assert!(!agrees(SLICES, slower));
}

#[test]
fn only_a_scheduler_without_defaults_is_known_to_be_in_place() {
    assert!(is_exactly(BEST_EFFORT, BEST_EFFORT) && is_exactly(STRICT, STRICT));
    let default = Scheduler {
        policy: SchedulerPolicy::EqualShare,
        ..BEST_EFFORT
    };
    assert!(!is_exactly(default, default) && !is_exactly(STRICT, SLICES));
}

/// Without an averaging factor, the wrapper puts the frequency in its place.
#[test]
fn a_frequency_alone_goes_to_its_own_place() {
    let alone = Scheduler {
        averaging_factor: None,
        ..STRICT
    };
    let told = to_nvml(alone);
    assert_eq!(told.scheduler_params.avg_factor, Some(0));
    assert_eq!(told.scheduler_params.frequency_or_timeslice, 480);
    assert_eq!(told.enable_arr_mode, ARR_ON);
}

#[test]
fn time_slices_switch_strict_round_robin_off() {
    let alone = Scheduler {
        strict_round_robin: None,
        ..SLICES
    };
    assert_eq!(to_nvml(alone), to_nvml(SLICES));
    assert_eq!(to_nvml(SLICES).enable_arr_mode, ARR_OFF);
    assert_eq!(to_nvml(BEST_EFFORT).enable_arr_mode, ARR_DEFAULT);
}

#[test]
fn schedulers_in_words() {
    assert_eq!(limits::words(BEST_EFFORT), "best-effort");
    assert_eq!(
        limits::words(STRICT),
        "equal-share, with strict round robin, averaging factor 33, 480 Hz"
    );
    assert_eq!(
        limits::words(SLICES),
        "fixed-share, without strict round robin, 2000000 ns"
    );
}
