//! Output: prints the results of commands. The log is separate.

use std::io::{IsTerminal, Write};

use crate::config::Problems;

/// Prints to standard output. A closed pipe is not an error.
pub(super) fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints to standard error.
pub(super) fn print_error(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints every Problem to standard error: with an excerpt of the file on a terminal, otherwise one
/// line each.
pub(super) fn print_problems(problems: &Problems) {
    let is_terminal = std::io::stderr().is_terminal();
    let is_styled = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    for problem in problems.iter() {
        if is_terminal {
            print_error(&format!("{}\n", problem.snippet().styled(is_styled)));
        } else {
            print_error(&problem.to_string());
        }
    }
}

/// Formats rows as aligned columns. The first row is the heading.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|at| {
            rows.iter()
                .filter_map(|row| row.get(at))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("  {}", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
