//! What is planned for each board, drawn.

use std::fmt::Write as _;

use super::*;

/// Needs from a text like `2 × 1g.5gb + 3g.20gb`, of pool `cad`.
fn needs_of(board: &Board, text: &str) -> Vec<InstanceNeed> {
    let parts = text.split(" + ").filter(|part| !part.is_empty());
    parts
        .map(|part| match part.split_once(" × ") {
            Some((count, name)) => need(board, "cad", count.parse().unwrap(), name),
            None => need(board, "cad", 1, part),
        })
        .collect()
}

/// One line for each text.
fn drawn(model: &str, existing: &[Instance], texts: &[&str]) -> String {
    let board = board(model);
    let mut lines = String::new();
    for text in texts {
        let line = match Layout::plan(&board, existing, &needs_of(&board, text)) {
            Ok(layout) => layout.drawn(&board),
            Err(refused) => refused.to_string(),
        };
        writeln!(lines, "{text}\n    {line}").unwrap();
    }
    lines
}

#[test]
fn of_a_seven_slice_board() {
    insta::assert_snapshot!(drawn(
        "a100-40",
        &[],
        &[
            "",
            "1g.5gb",
            "7 × 1g.5gb",
            "1g.5gb+me + 6 × 1g.5gb",
            "4 × 1g.10gb",
            "2g.10gb",
            "3 × 2g.10gb + 1g.5gb",
            "3g.20gb",
            "2 × 3g.20gb",
            "4g.20gb + 3g.20gb",
            "3g.20gb + 2g.10gb + 1g.5gb",
            "1g.10gb + 3 × 1g.5gb + 3g.20gb",
            "7g.40gb",
            "7g.40gb + 1g.5gb",
            "4g.20gb + 2 × 3g.20gb",
            "8 × 1g.5gb",
        ],
    ));
}

#[test]
fn of_every_other_board() {
    let mut all = String::new();
    for (model, texts) in [
        (
            "a30",
            &[
                "1g.6gb",
                "4 × 1g.6gb",
                "2g.12gb + 2 × 1g.6gb",
                "2g.12gb+me + 1g.6gb+me",
                "4g.24gb",
            ][..],
        ),
        ("a100-80", &["4g.40gb + 2g.20gb + 1g.10gb"]),
        ("h100", &["3g.40gb + 4 × 1g.10gb"]),
        ("h200", &["1g.35gb + 1g.18gb+me"]),
        ("b200", &["2g.45gb + 3g.90gb"]),
        (
            "rtx-pro-6000",
            &[
                "1g.24gb+gfx",
                "4 × 1g.24gb+gfx",
                "2g.48gb+gfx",
                "2g.48gb+gfx + 2 × 1g.24gb+gfx",
                "4g.96gb+gfx",
                "1g.24gb+me.all + 3 × 1g.24gb-me",
                "1g.24gb+me.all + 1g.24gb+gfx",
            ],
        ),
    ] {
        writeln!(all, "# {model}\n{}", drawn(model, &[], texts)).unwrap();
    }
    insta::assert_snapshot!(all);
}

#[test]
fn of_a_board_that_is_in_use() {
    let a100 = board("a100-40");
    let existing = [
        used(&a100, 13, "1g.5gb", 6),
        idle(&a100, 9, "1g.5gb", 1),
        foreign(&a100, 3, "2g.10gb", 4),
    ];
    insta::assert_snapshot!(drawn(
        "a100-40",
        &existing,
        &[
            "",
            "1g.5gb",
            "2 × 1g.5gb + 2g.10gb",
            "4g.20gb + 1g.5gb",
            "3g.20gb + 2 × 1g.5gb",
            "2 × 3g.20gb",
            "7g.40gb",
        ],
    ));
}
