//! A domain from another host, or from its saved state, names a virtual function that
//! may be taken here. The hook prints the XML with another function, and nothing if the
//! XML can stay as it is.

use nix::errno::Errno;

use crate::support::{
    domain::Domain,
    kernel::{Fault, Target},
    machine::{Gpu, Machine},
    process::Outcome,
    refused::{is_untouched, on_host},
    scene::Scene,
};

const FIRST: &str = "0000:41:00.4";
const SECOND: &str = "0000:41:00.5";
const FOREIGN: &str = "0000:41:00.6";
/// A function on the host from which the domain comes.
const ELSEWHERE: &str = "0000:c1:01.3";

fn scene() -> Scene {
    let gpu = Gpu::l40s("0000:41:00.0").functions(3);
    let scene = Scene::new(Machine::of_gpus([gpu]).with_vgpu(FOREIGN, "L40S-12Q"));
    scene.vgpu_pool("cad", "L40S-12Q");
    scene
}

/// A domain with details that an editor might damage, and a foreign device.
fn domain(number: usize, functions: &[&str]) -> Domain {
    let domain = Domain::new(number).with(
        "  <!-- kept: 0000:41:00.6 &amp; \"quotes\" -->\n  <description>a &lt; b\n</description>\n\
         \x20 <devices><hostdev mode='subsystem' type='pci' managed='yes'><source>\
         <address domain=\"0x0000\" bus='0x41' slot='0x00' function='0x6'/></source>\
         <alias name='ua-theirs'/></hostdev></devices>\n",
    );
    functions
        .iter()
        .enumerate()
        .fold(domain, |domain, (number, function)| {
            domain.function(&format!("gpu{number}"), "cad", function)
        })
}

fn run(scene: &Scene, domain: &Domain, words: &str) -> Outcome {
    scene.hook(domain, words).run()
}

/// It succeeds and hands on exactly this.
#[track_caller]
fn hands_on(outcome: &Outcome, xml: &str) {
    assert_eq!((outcome.code, &*outcome.stderr), (Some(0), ""));
    assert_eq!(outcome.stdout, xml);
}

fn made(scene: &Scene) -> Vec<String> {
    scene.our_vgpus().into_keys().collect()
}

#[test]
fn a_function_that_is_free_stays() {
    for functions in [&[FIRST, SECOND][..], &[SECOND, FIRST], &[SECOND]] {
        let (scene, domain) = (scene(), domain(1, functions));
        run(&scene, &domain, "restore begin -").ends_well();
        is_untouched(&scene);
        run(&scene, &domain, "migrate begin -").ends_well();
        let mut wanted = functions.to_vec();
        wanted.sort_unstable();
        assert_eq!(made(&scene), wanted);
        scene.is_settled();
        scene.prepare(&domain).ends_well();
        assert_eq!(made(&scene), wanted);
        scene.stop(&domain);
        scene.is_empty();
    }
}

#[test]
fn a_function_that_is_not_here_is_another() {
    for named in [ELSEWHERE, FOREIGN, "0000:41:00.0"] {
        for words in ["migrate begin -", "restore begin -"] {
            let (scene, domain) = (scene(), domain(1, &[named]));
            let here = self::domain(1, &[FIRST]);
            hands_on(&run(&scene, &domain, words), &here.xml());
            if words.starts_with("restore") {
                is_untouched(&scene);
            } else {
                assert_eq!(made(&scene), [FIRST]);
                scene.is_settled();
            }
            scene.prepare(&here).ends_well();
            assert_eq!(made(&scene), [FIRST]);
            scene.is_settled();
            scene.stop(&here);
            scene.is_empty();
        }
    }
}

#[test]
fn only_what_has_to_change_does() {
    for (words, stays) in ["migrate begin -", "restore begin -"]
        .into_iter()
        .flat_map(|words| [(words, FIRST), (words, SECOND)])
    {
        let other = if stays == FIRST { SECOND } else { FIRST };
        for (named, wanted) in [
            ([stays, ELSEWHERE], [stays, other]),
            ([ELSEWHERE, stays], [other, stays]),
        ] {
            let (scene, domain) = (scene(), domain(1, &named));
            let here = self::domain(1, &wanted);
            hands_on(&run(&scene, &domain, words), &here.xml());
            scene.prepare(&here).ends_well();
            assert_eq!(made(&scene), [FIRST, SECOND]);
            scene.stop(&here);
            scene.is_empty();
        }
    }
}

/// Functions that run for others, functions in claims of crashed starts of this domain,
/// and quarantined functions.
#[test]
fn claims_and_quarantine_count() {
    let (scene, other) = (scene(), domain(2, &[FIRST]));
    scene.prepare(&other).ends_well();
    scene.runs_on(4711, &other, &[FIRST]);
    let (domain, here) = (domain(1, &[FIRST]), domain(1, &[SECOND]));
    hands_on(&run(&scene, &domain, "restore begin -"), &here.xml());
    hands_on(&run(&scene, &domain, "migrate begin -"), &here.xml());
    assert_eq!(made(&scene), [FIRST, SECOND]);
    // The domain's own function counts as free.
    run(&scene, &here, "restore begin -").ends_well();
    scene.stop(&domain);
    scene.ends(4711);
    for words in ["start begin -", "started begin -", "release end crashed"] {
        run(&scene, &other, words).ends_well();
    }
    scene.is_empty();
    hands_on(
        &run(&scene, &other, "restore begin -"),
        &self::domain(2, &[SECOND]).xml(),
    );
    hands_on(&run(&scene, &domain, "migrate begin -"), &here.xml());
    scene.stop(&here);
    scene.is_empty();
}

/// libvirt deletes the saved state if `restore` fails; `prepare` reports what is
/// missing.
#[test]
fn restore_never_fails() {
    let domain = domain(1, &[ELSEWHERE]);
    let silent = |scene: &Scene, xml: &[u8]| {
        let outcome = scene.hook_with(&domain, "restore begin -", xml).run();
        outcome.ends_well();
    };
    let full = scene();
    let others = [self::domain(2, &[FIRST]), self::domain(3, &[SECOND])];
    for other in &others {
        full.prepare(other).ends_well();
    }
    silent(&full, domain.xml().as_bytes());
    full.is_settled();
    assert_eq!(
        on_host(&full, full.prepare(&domain).refusal()),
        "pool 'cad' has no free L40S-12Q for domain 'vm1': its XML names 0000:c1:01.3: it is not a \
         virtual function of this host (see 'virt-vgpu host show'); 'virt-vgpu start vm1' looks for \
         another"
    );

    let scene = scene();
    let xml = domain.xml();
    let half = &xml[..xml.len() / 2];
    let nowhere = xml.replace("pool='cad'", "pool='nobody'");
    let nameless = xml.replace("pool='cad'", "pool=''");
    let unnamed = xml.replace("<uuid>", "<uuid>x");
    for bad in [half, &nowhere, &nameless, &unnamed] {
        assert_ne!(bad, xml);
        silent(&scene, bad.as_bytes());
    }
    silent(&scene, &[xml.as_bytes(), b"\xff"].concat());
    scene.file(
        "etc/virt-vgpu/pools.d/cad.toml",
        "kind = \"nvidia-vgpu\"\nprofile = ",
    );
    silent(&scene, xml.as_bytes());
    // With mixed sizes nothing is known without NVML.
    scene.vgpu_pool_with("cad", "L40S-12Q", "heterogeneous = true");
    scene.kernel.inject(Fault::errno(Target::Nvml, Errno::EIO));
    silent(&scene, xml.as_bytes());
    scene.without_nvml();
    silent(&scene, xml.as_bytes());
    is_untouched(&scene);
}

/// The destination of a migration says why.
#[test]
fn migrate_is_refused_where_nothing_is_free() {
    let scene = scene();
    for (number, function) in [(2, FIRST), (3, SECOND)] {
        scene.prepare(&domain(number, &[function])).ends_well();
        scene.runs_on(
            4000 + u32::try_from(number).unwrap(),
            &domain(number, &[]),
            &[function],
        );
    }
    let outcome = run(&scene, &domain(1, &[ELSEWHERE]), "migrate begin -");
    assert_eq!(
        on_host(&scene, outcome.refusal()),
        "pool 'cad' has no free L40S-12Q for domain 'vm1': 0000:41:00.4: domain 'vm2' has it; \
         0000:41:00.5: domain 'vm3' has it; 0000:41:00.6: already has the type 1153, but belongs \
         to no domain of ours; see 'virt-vgpu explain vm1'"
    );
    scene.is_settled();
    assert_eq!(scene.claims().len(), 2);
}

/// libvirt does not read what `prepare` prints.
#[test]
fn prepare_never_prints() {
    let scene = scene();
    // The migration found another function, but libvirt passes the old XML.
    let (domain, here) = (domain(1, &[FOREIGN]), domain(1, &[FIRST]));
    hands_on(&run(&scene, &domain, "migrate begin -"), &here.xml());
    let outcome = scene.prepare(&domain);
    assert_eq!(
        on_host(&scene, outcome.refusal()),
        "pool 'cad' has no free L40S-12Q for domain 'vm1': its XML names 0000:41:00.6: already has \
         the type 1153, but belongs to no domain of ours; 'virt-vgpu start vm1' looks for another"
    );
    is_untouched(&scene);
    for function in [FIRST, SECOND] {
        let domain = self::domain(1, &[function]);
        scene.prepare(&domain).ends_well();
        assert_eq!(made(&scene), [function]);
        scene.stop(&domain);
    }
    scene.is_empty();
}
