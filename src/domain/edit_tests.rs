use proptest::prelude::*;

use super::*;
use crate::domain::{for_set_metadata, metadata_element, parse, request::tests::any_request};

fn request(name: &str) -> Request {
    Request::new(name.parse().unwrap(), "p".parse().unwrap())
}

fn name(name: &str) -> DeviceName {
    name.parse().unwrap()
}

const NS: &str = "xmlns:v='urn:virt-vgpu:devices:1'";

#[test]
fn the_first_request_makes_the_element() {
    let wanted = Request {
        guest_drivers: Some(true),
        frame_rate_limit: Some(0),
        ..request("gpu0")
    };
    let element = add_request(None, &wanted).unwrap();
    assert_eq!(
        element,
        "<vgpu:devices xmlns:vgpu=\"urn:virt-vgpu:devices:1\">\n  \
         <vgpu:device name='gpu0' pool='p' guest-drivers='yes' frame-rate-limit='0'/>\n\
         </vgpu:devices>"
    );
    assert_eq!(requests(&element).unwrap(), [wanted]);
    assert_eq!(remove_request(&element, &name("gpu0")).unwrap(), None);
}

#[test]
fn a_further_request_goes_to_the_end_and_comes_out_without_a_trace() {
    for (before, after) in [
        // Prefixes, default namespace, none.
        (
            format!("<v:devices {NS}>\n    <v:device  name=\"a\" pool='p' ></v:device>\n  </v:devices>"),
            format!("<v:devices {NS}>\n    <v:device  name=\"a\" pool='p' ></v:device>\n    <v:device name='b' pool='p'/>\n  </v:devices>"),
        ),
        (
            "<devices xmlns='urn:virt-vgpu:devices:1'><device name='a' pool='p'/></devices>".into(),
            "<devices xmlns='urn:virt-vgpu:devices:1'><device name='a' pool='p'/><device name='b' pool='p'/></devices>".into(),
        ),
        (
            "<devices>\r\n\t<device name='a' pool='p'/>\r\n</devices>\n".into(),
            "<devices>\r\n\t<device name='a' pool='p'/>\r\n\t<device name='b' pool='p'/>\r\n</devices>\n".into(),
        ),
        // Foreign content.
        (
            format!("<!-- x --><v:devices {NS} xmlns:o='o'>\n <!-- <v:device name='b'/> -->\n <o:device name='b'/>\n</v:devices>"),
            format!("<!-- x --><v:devices {NS} xmlns:o='o'>\n <!-- <v:device name='b'/> -->\n <o:device name='b'/>\n  <v:device name='b' pool='p'/>\n</v:devices>"),
        ),
        (
            format!("<v:devices {NS}><v:device name='a' pool='p'><o xmlns='o'>é</o></v:device> <!-- c --> </v:devices>"),
            format!("<v:devices {NS}><v:device name='a' pool='p'><o xmlns='o'>é</o></v:device><v:device name='b' pool='p'/> <!-- c --> </v:devices>"),
        ),
    ] {
        let mut wanted = requests(&before).unwrap();
        wanted.push(request("b"));
        let added = add_request(Some(&before), &request("b")).unwrap();
        assert_eq!(added, after);
        assert_eq!(requests(&added).unwrap(), wanted);
        assert_eq!(
            remove_request(&added, &name("b")).unwrap().as_deref(),
            Some(before.as_str())
        );
    }
}

#[test]
fn an_empty_element_is_opened() {
    for (before, after) in [
        (
            format!("<v:devices {NS} />"),
            format!("<v:devices {NS}>\n  <v:device name='b' pool='p'/>\n</v:devices>"),
        ),
        (
            format!("<v:devices {NS}></v:devices>"),
            format!("<v:devices {NS}><v:device name='b' pool='p'/></v:devices>"),
        ),
        (
            "<devices/><!-- c -->".to_owned(),
            "<devices>\n  <device name='b' pool='p'/>\n</devices><!-- c -->".to_owned(),
        ),
    ] {
        assert_eq!(add_request(Some(&before), &request("b")).unwrap(), after);
        assert_eq!(requests(&after).unwrap(), [request("b")]);
    }
}

#[test]
fn what_somebody_may_want_to_keep_keeps_the_element() {
    for (element, left) in [
        (
            format!("<v:devices {NS}><v:device name='a' pool='p'/></v:devices>"),
            None,
        ),
        (
            format!(
                "<v:devices {NS}> <v:device name='a' pool='p'><!-- c --></v:device>\n</v:devices>\n"
            ),
            None,
        ),
        (format!("<v:devices {NS}/>"), None),
        (
            format!("<v:devices {NS}>\n <!-- c -->\n <v:device name='a' pool='p'/>\n</v:devices>"),
            Some(format!("<v:devices {NS}>\n <!-- c -->\n</v:devices>")),
        ),
        (
            format!("<v:devices {NS}><v:device name='a' pool='p'/>text</v:devices>"),
            Some(format!("<v:devices {NS}>text</v:devices>")),
        ),
        (
            format!("<v:devices {NS} xml:lang='de'><v:device name='a' pool='p'/></v:devices>"),
            Some(format!("<v:devices {NS} xml:lang='de'></v:devices>")),
        ),
        (
            format!("<v:devices {NS}><v:device name='b' pool='p'/></v:devices>"),
            Some(format!(
                "<v:devices {NS}><v:device name='b' pool='p'/></v:devices>"
            )),
        ),
    ] {
        assert_eq!(
            remove_request(&element, &name("a")).unwrap(),
            left,
            "{element}"
        );
    }
}

#[test]
fn replacing_touches_only_what_changes() {
    let before = format!(
        "<v:devices {NS} xmlns:o='o'>\n <v:device pool=\"p\"\n   console-vnc = 'true' o:n='1' debuggers='1' name='a' ><!-- c --></v:device>\n <v:device name='b' pool='p'/></v:devices>"
    );
    let same = requests(&before).unwrap().swap_remove(0);
    assert_eq!(replace_request(&before, &same).unwrap(), before);
    let changed = Request {
        pool: "q".parse().unwrap(),
        debuggers: None,
        optional: Some(false),
        ..same
    };
    let after = replace_request(&before, &changed).unwrap();
    assert_eq!(
        after,
        format!(
            "<v:devices {NS} xmlns:o='o'>\n <v:device pool=\"q\"\n   console-vnc = 'true' o:n='1' name='a' optional='no' ><!-- c --></v:device>\n <v:device name='b' pool='p'/></v:devices>"
        )
    );
    assert_eq!(requests(&after).unwrap(), [changed, request("b")]);
}

#[test]
fn what_cannot_be_edited_is_refused() {
    let one = format!("<v:devices {NS}>\n<v:device name='a' pool='p'/></v:devices>");
    let text = |result: Result<String, DomainError>| result.unwrap_err().to_string();
    assert_eq!(
        text(add_request(Some(&one), &request("a"))),
        "<v:device name='a'>: a second device of this name; names are unique in a domain"
    );
    assert_eq!(
        text(replace_request(&one, &request("b"))),
        "<v:device name='b'>: no device of this name"
    );
    let mut full = None;
    for number in 0..64 {
        let request = request(&format!("g{number}"));
        full = Some(add_request(full.as_deref(), &request).unwrap());
    }
    assert_eq!(
        text(add_request(full.as_deref(), &request("more"))),
        "<vgpu:device name='more'>: more than 64 devices, the most that a domain can ask for"
    );
    for (element, wanted) in [
        (
            "<devices><device name='a'/></devices>",
            "<device name='a'>: attribute 'pool' is missing",
        ),
        (
            "<devices><devise/></devices>",
            "<devise>: unknown element; accepted here: device",
        ),
        ("<devices>", "the XML ends inside <devices>"),
        (
            "<metadata/>",
            "the root element is <metadata>, not <devices>",
        ),
        ("", "the input holds no XML element"),
    ] {
        assert_eq!(text(add_request(Some(element), &request("b"))), wanted);
    }
}

/// A metadata element with some requests, in some prefix and formatting.
fn some_element() -> impl Strategy<Value = String> {
    let prefix = prop::sample::select(vec!["vgpu:", "é:", "", "naked"]);
    let filler = prop::sample::select(vec![
        "",
        "\n  ",
        "\r\n\t",
        "<!-- <device/> -->",
        " text ",
        "<o:x xmlns:o='o' o:name='z'/>",
        "<![CDATA[<device>]]>",
        "&amp;",
    ]);
    (
        prefix,
        prop::collection::vec((any_request(), filler.clone()), 0..6),
        filler,
    )
        .prop_map(|(prefix, devices, last)| {
            let (prefix, declaration) = match prefix {
                "naked" => ("", String::new()),
                "" => ("", format!(" xmlns='{NAMESPACE}'")),
                _ => (
                    prefix,
                    format!(" xmlns:{}='{NAMESPACE}'", prefix.trim_end_matches(':')),
                ),
            };
            let mut element = format!("<{prefix}devices{declaration}>");
            let mut names = std::collections::BTreeSet::new();
            for (request, filler) in devices {
                element.push_str(filler);
                if names.insert(request.name.clone()) {
                    element.push_str(&request.to_xml(&format!("{prefix}device")));
                }
            }
            format!("{element}{last}</{prefix}devices>")
        })
}

proptest! {
    #[test]
    fn adding_and_removing_is_no_change(element in some_element(), request in any_request()) {
        let before = requests(&element).unwrap();
        prop_assume!(before.iter().all(|other| other.name != request.name));
        let added = add_request(Some(&element), &request).unwrap();
        let mut wanted = before.clone();
        wanted.push(request.clone());
        prop_assert_eq!(requests(&added).unwrap(), wanted);
        // Only white space of an empty line may move.
        match remove_request(&added, &request.name).unwrap() {
            Some(removed) => prop_assert_eq!(removed, element),
            None => prop_assert!(before.is_empty()),
        }
    }

    #[test]
    fn removing_takes_one_and_keeps_the_rest(element in some_element(), which: prop::sample::Index) {
        let mut wanted = requests(&element).unwrap();
        prop_assume!(!wanted.is_empty());
        let gone = wanted.remove(which.index(wanted.len()));
        match remove_request(&element, &gone.name).unwrap() {
            Some(left) => {
                prop_assert_eq!(requests(&left).unwrap(), wanted);
                let text = &gone.to_xml("device")["<device".len()..];
                let (before, after) = element.split_once(text).unwrap();
                prop_assert!(left.ends_with(after));
                prop_assert!(before.starts_with(&left[..left.len() - after.len()]));
            }
            None => prop_assert!(wanted.is_empty()),
        }
    }

    #[test]
    fn replacing_gives_what_was_asked(element in some_element(), new in any_request(), which: prop::sample::Index) {
        let mut wanted = requests(&element).unwrap();
        prop_assume!(!wanted.is_empty());
        let place = which.index(wanted.len());
        wanted[place] = Request { name: wanted[place].name.clone(), ..new };
        let replaced = replace_request(&element, &wanted[place]).unwrap();
        prop_assert_eq!(requests(&replaced).unwrap(), wanted);
    }

    #[test]
    fn an_element_survives_the_domain_and_libvirts_call(element in some_element()) {
        prop_assume!(element.contains(NAMESPACE));
        let xml = format!(
            "<domain><name>d</name><uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid>\
             <metadata>{element}</metadata></domain>"
        );
        let wanted = requests(&element).unwrap();
        prop_assert_eq!(&parse(&xml).unwrap().requests, &wanted);
        prop_assert_eq!(metadata_element(&xml).unwrap().unwrap(), element.as_str());
        let call = for_set_metadata(&element).unwrap();
        prop_assert!(!call.xml.contains(NAMESPACE));
        prop_assert_eq!(requests(&call.xml).unwrap(), wanted);
    }

    #[test]
    fn no_text_panics(text: String, request in any_request()) {
        let _ = add_request(Some(&text), &request);
        let _ = remove_request(&text, &request.name);
        let _ = replace_request(&text, &request);
        let _ = for_set_metadata(&text);
    }
}
