//! Plain: the figures as plain text, for a file, a pipe or a terminal without a screen.

use std::fmt::Write;

use super::format::duration;
use super::rows::{self, Sheet};
use super::view::{Tab, View};
use crate::cli::output::columns;

pub(super) fn text(view: &View) -> String {
    let Some(last) = &view.last else {
        return "no figures".to_owned();
    };
    let now = &last.snapshot;
    let draining = if now.draining { ", draining" } else { "" };
    let mut text = format!(
        "{}  oneport {}  up {}{draining}\n",
        now.name,
        now.version,
        duration(now.uptime)
    );
    for (label, value) in rows::figures(now, &view.rates) {
        let _ = write!(text, "\n  {label:12} {value:>12}");
    }
    for tab in Tab::ALL {
        let _ = write!(text, "\n\n{}\n{}", tab.name(), table(&view.sheet(tab)));
    }
    text
}

fn table(sheet: &Sheet) -> String {
    let heading = sheet.columns.iter().map(|column| column.name.to_owned());
    let rows = sheet.rows.iter().map(|row| row.cells.clone());
    let all: Vec<Vec<String>> = std::iter::once(heading.collect()).chain(rows).collect();
    columns(&all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::look::Look;

    #[test]
    fn every_table_is_printed() {
        let mut view = View::default();
        assert_eq!(text(&view), "no figures");
        view.apply(Look::default());
        let printed = text(&view);
        for expected in [
            "sockets",
            "Routes",
            "Ends",
            "Health",
            "SERVED BY",
            "channel layer",
        ] {
            assert!(printed.contains(expected), "{expected}\n{printed}");
        }
        assert!(!printed.contains('\u{1b}'));
    }
}
