//! How many instances the pools of a GPU need.

use super::*;

const QUARTER: u32 = 47;
const HALF: u32 = 35;

/// A pool of vGPUs of that many GB, so many in an instance at most.
fn pool(name: &str, profile: u32, gigabytes: u64, most: u32, vgpus: u32) -> PoolNeed {
    PoolNeed {
        pool: name.parse().unwrap(),
        in_instances: Some(InInstances {
            profile: ProfileId::new(profile).unwrap(),
            framebuffer_mib: gigabytes * 1024,
            most_per_instance: most,
            vgpus,
            later: 0,
            mixes_sizes: false,
            scheduler: None,
        }),
    }
}

fn changed(mut pool: PoolNeed, change: impl Fn(&mut InInstances)) -> PoolNeed {
    change(pool.in_instances.as_mut().unwrap());
    pool
}

fn mixing(pool: PoolNeed) -> PoolNeed {
    changed(pool, |its| its.mixes_sizes = true)
}

/// Pools, profile, instances and instances later of each need.
fn needs(pools: &[PoolNeed]) -> Vec<(String, u32, u32, u32)> {
    let need = gpu_need(pools).unwrap().unwrap();
    assert!(need.mig);
    let instances = need.instances.iter();
    instances
        .map(|need| {
            let pools: Vec<&str> = need.pools.iter().map(|pool| pool.as_str()).collect();
            (
                pools.join(" "),
                need.profile.number(),
                need.instances,
                need.later,
            )
        })
        .collect()
}

#[test]
fn one_instance_takes_as_many_as_it_can() {
    for (vgpus, instances) in [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)] {
        let found = needs(&[pool("a", HALF, 12, 4, vgpus)]);
        assert_eq!(found, [("a".to_owned(), HALF, instances, 0)], "{vgpus}");
    }
}

#[test]
fn pools_of_one_size_share_instances_and_others_do_not() {
    let found = needs(&[
        pool("a", QUARTER, 3, 8, 3),
        pool("b", QUARTER, 6, 4, 1),
        pool("c", QUARTER, 3, 8, 5),
        pool("d", HALF, 12, 4, 2),
    ]);
    assert_eq!(
        found,
        [
            ("d".to_owned(), HALF, 1, 0),
            ("a c".to_owned(), QUARTER, 1, 0),
            ("b".to_owned(), QUARTER, 1, 0),
        ]
    );
}

#[test]
fn a_pool_that_wants_fewer_in_an_instance_has_its_own() {
    let found = needs(&[pool("a", HALF, 12, 4, 2), pool("b", HALF, 12, 1, 2)]);
    assert_eq!(
        found,
        [("b".to_owned(), HALF, 2, 0), ("a".to_owned(), HALF, 1, 0)]
    );
}

#[test]
fn instances_with_several_sizes_are_filled() {
    let sizes = |pools: &[PoolNeed]| {
        let mixing: Vec<PoolNeed> = pools.iter().cloned().map(mixing).collect();
        needs(&mixing)[0].2
    };
    // Half with 24 GB, a quarter each with 12 GB.
    let half = pool("a", HALF, 24, 2, 1);
    assert_eq!(sizes(&[half.clone(), pool("b", HALF, 12, 4, 2)]), 1);
    assert_eq!(sizes(&[half.clone(), pool("b", HALF, 12, 4, 3)]), 2);
    // 16 GB lie at thirds, so one of them covers parts of two quarters.
    assert_eq!(
        sizes(&[pool("a", HALF, 16, 3, 1), pool("b", HALF, 12, 4, 2)]),
        1
    );
    assert_eq!(
        sizes(&[pool("a", HALF, 16, 3, 1), pool("b", HALF, 12, 4, 3)]),
        2
    );
    assert_eq!(sizes(&[pool("a", HALF, 16, 3, 2), half]), 2);
    assert_eq!(
        sizes(&[pool("a", HALF, 48, 1, 2), pool("b", HALF, 12, 4, 8)]),
        4
    );
}

#[test]
fn what_may_come_later_is_counted_with_what_is_there() {
    let later = |vgpus, later| {
        let one = changed(pool("a", HALF, 12, 4, vgpus), |its| its.later = later);
        let need = gpu_need(&[one]).unwrap().unwrap();
        let InstanceNeed {
            instances,
            later,
            weight,
            ..
        } = need.instances[0];
        (instances, later, weight)
    };
    assert_eq!(later(0, 8), (0, 2, 8));
    // The fourth has space in the first instance.
    assert_eq!(later(3, 1), (1, 0, 1));
    assert_eq!(later(3, 2), (1, 1, 2));
    assert_eq!(later(u32::MAX, u32::MAX), (1 << 30, 0, u32::MAX));
}

#[test]
fn a_gpu_is_in_one_mode() {
    let time_sliced = PoolNeed {
        pool: "b".parse().unwrap(),
        in_instances: None,
    };
    assert_eq!(gpu_need(&[]), Ok(None));
    let off = gpu_need(std::slice::from_ref(&time_sliced))
        .unwrap()
        .unwrap();
    assert!(!off.mig && off.instances.is_empty());
    assert_eq!(
        gpu_need(&[pool("a", HALF, 12, 4, 1), time_sliced])
            .unwrap_err()
            .to_string(),
        "pool 'a' needs GPU instances and pool 'b' has time-sliced vGPUs, which a GPU cannot have \
         at once; let their rules match different GPUs"
    );
}
