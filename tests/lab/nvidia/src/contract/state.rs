//! The state text in a form that is the same on every host: instance ids by age,
//! functions by number, no process ids and no NUMA node.

use super::Op;

/// Columns of a `forgotten` line.
const FORGOTTEN_WHERE: usize = 2;
const FORGOTTEN_MDEV: usize = 3;

/// Columns of a `vgpu` line.
const ID: usize = 1;
const WHERE: usize = 5;
const MDEV: usize = 6;
const OPENER: usize = 7;
const COLUMNS: usize = 10;

/// The state, comparable; `name` turns an address into `pf` or `vf3`.
pub fn comparable(text: &str, name: impl Fn(&str) -> String) -> String {
    let of = |keyword: &str| {
        let lines = text.lines().map(str::to_owned);
        let prefix = format!("{keyword} ");
        lines.filter(move |line| line.starts_with(&prefix))
    };
    let instances = ["gi", "ci", "vgpu", "forgotten"];
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| {
            let keyword = line.split(' ').next().unwrap_or_default();
            keyword != "node" && !instances.contains(&keyword)
        })
        .map(str::to_owned)
        .collect();
    lines.extend(of("gi"));
    lines.extend(of("ci"));
    let mut vgpus: Vec<Vec<String>> = of("vgpu")
        .map(|line| line.splitn(COLUMNS, ' ').map(str::to_owned).collect())
        .collect();
    vgpus.sort_by_key(|words| words.get(ID).and_then(|id| id.parse::<u64>().ok()));
    for (age, mut words) in vgpus.into_iter().enumerate() {
        for (column, word) in words.iter_mut().enumerate() {
            match column {
                ID => *word = age.to_string(),
                WHERE => *word = name(word),
                OPENER if word != "-" => "open".clone_into(word),
                _ => {}
            }
        }
        lines.push(words.join(" "));
    }
    for line in of("forgotten") {
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        if let Some(word) = words.get_mut(FORGOTTEN_WHERE) {
            *word = name(word);
        }
        lines.push(words.join(" "));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// The operations that remove everything in a comparable state, in an order that works.
pub(super) fn removal(state: &str) -> Vec<Op> {
    let mut ops = Vec::new();
    let lines: Vec<Vec<&str>> = state
        .lines()
        .map(|line| line.split(' ').collect())
        .collect();
    for words in &lines {
        let (place, uuid) = match words.first() {
            Some(&"vgpu") => (words.get(WHERE), words.get(MDEV)),
            Some(&"forgotten") => (words.get(FORGOTTEN_WHERE), words.get(FORGOTTEN_MDEV)),
            _ => continue,
        };
        if let Some(uuid) = uuid.filter(|uuid| **uuid != "-") {
            ops.push(Op::MdevRemove((*uuid).to_owned(), "1\n".to_owned()));
        } else {
            let vf = place.and_then(|name| name.strip_prefix("vf"));
            ops.extend(vf.and_then(|vf| vf.parse().ok()).map(Op::Release));
        }
    }
    for words in &lines {
        if let ["ci", gi, ci, ..] = words.as_slice() {
            ops.push(Op::Control(format!("ci-destroy {gi} {ci}")));
        }
    }
    for words in &lines {
        if let ["gi", gi, ..] = words.as_slice() {
            ops.push(Op::Control(format!("gi-destroy {gi}")));
        }
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "model l40s\nnode 1\nmig 1 1\n\
        gi 1 47 0 3 0\nvgpu 9 1155 0 1 0000:3b:00.5 - 77 u my vm\n\
        ci 1 0 1\nvgpu 8 1155 - - 0000:3b:00.0 c041 - - -\n\
        forgotten 1155 0000:3b:00.6 -\nforgotten 1155 0000:3b:00.7 c042\n";

    fn name(address: &str) -> String {
        let function = address.rsplit('.').next().unwrap_or_default();
        if function == "0" {
            "pf".to_owned()
        } else {
            format!("vf{function}")
        }
    }

    #[test]
    fn vgpus_are_by_age_and_places_by_number() {
        assert_eq!(
            comparable(TEXT, name),
            "model l40s\nmig 1 1\ngi 1 47 0 3 0\nci 1 0 1\n\
             vgpu 0 1155 - - pf c041 - - -\nvgpu 1 1155 0 1 vf5 - open u my vm\n\
             forgotten 1155 vf6 -\nforgotten 1155 vf7 c042\n"
        );
    }

    #[test]
    fn all_that_shows_is_removed_inside_out() {
        assert_eq!(
            removal(&comparable(TEXT, name)),
            [
                Op::MdevRemove("c041".to_owned(), "1\n".to_owned()),
                Op::Release(5),
                Op::Release(6),
                Op::MdevRemove("c042".to_owned(), "1\n".to_owned()),
                Op::Control("ci-destroy 1 0".to_owned()),
                Op::Control("gi-destroy 1".to_owned()),
            ]
        );
    }
}
