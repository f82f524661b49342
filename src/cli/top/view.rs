//! View: what is shown: the last figures, the rates, and the order of rows.

use std::time::Instant;

use super::look::Look;
use super::rows::{self, Sheet};
use crate::stats::Rates;

/// The tables that can be shown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Tab {
    /// The routes of both tables.
    #[default]
    Routes,
    /// The last ends.
    Ends,
    /// What the server depends on.
    Health,
}

impl Tab {
    pub(super) const ALL: [Self; 3] = [Self::Routes, Self::Ends, Self::Health];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Routes => "Routes",
            Self::Ends => "Ends",
            Self::Health => "Health",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Routes => Self::Ends,
            Self::Ends => Self::Health,
            Self::Health => Self::Routes,
        }
    }
}

/// What the user wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Command {
    Quit,
    Show(Tab),
    NextTab,
    NextColumn,
    Reverse,
    /// By so many rows; the ends are reached by large numbers.
    Scroll(isize),
    Pause,
}

/// What is shown.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) last: Option<Look>,
    pub(super) rates: Rates,
    before: Option<Look>,
    /// Why the last look failed, and since when they fail.
    pub(super) away: Option<(String, Instant)>,
    pub(super) tab: Tab,
    /// The column of the routes that sorts them, and whether the order is reversed.
    pub(super) sort: usize,
    pub(super) is_reversed: bool,
    pub(super) scroll: usize,
    pub(super) is_paused: bool,
}

impl View {
    /// Takes the next figures.
    pub(super) fn apply(&mut self, look: Look) {
        self.away = None;
        if self.is_paused {
            return;
        }
        self.before = self.last.replace(look);
        if let (Some(before), Some(last)) = (&self.before, &self.last) {
            self.rates = Rates::between(&before.snapshot, &last.snapshot);
        }
    }

    /// Notes that the server does not answer; the last figures stay.
    pub(super) fn fail(&mut self, sentence: String) {
        let since = self
            .away
            .take()
            .map_or_else(Instant::now, |(_, since)| since);
        self.away = Some((sentence, since));
    }

    /// Carries out a command. Returns whether to go on.
    pub(super) fn act(&mut self, command: Command) -> bool {
        match command {
            Command::Quit => return false,
            Command::Show(tab) => (self.tab, self.scroll) = (tab, 0),
            Command::NextTab => (self.tab, self.scroll) = (self.tab.next(), 0),
            Command::NextColumn => self.sort = (self.sort + 1) % rows::SORTED_BY.len(),
            Command::Reverse => self.is_reversed = !self.is_reversed,
            Command::Scroll(by) => {
                let last = self.sheet(self.tab).rows.len().saturating_sub(1);
                self.scroll = self.scroll.saturating_add_signed(by).min(last);
            }
            Command::Pause => self.is_paused = !self.is_paused,
        }
        true
    }

    /// Returns the rows of a table.
    pub(super) fn sheet(&self, tab: Tab) -> Sheet {
        let Some(last) = &self.last else {
            return Sheet::default();
        };
        let before = self.before.as_ref();
        match tab {
            Tab::Routes => rows::routes(
                &last.snapshot,
                before.map(|before| &before.snapshot),
                self.sort,
                self.is_reversed,
            ),
            Tab::Ends => rows::ends(&last.ends),
            Tab::Health => rows::health(&last.snapshot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrolling_stays_within_the_rows() {
        let mut view = View::default();
        view.apply(Look::default());
        view.act(Command::Show(Tab::Health));
        let rows = view.sheet(Tab::Health).rows.len();
        assert!(view.act(Command::Scroll(isize::MAX)));
        assert_eq!(view.scroll, rows - 1);
        view.act(Command::Scroll(-1));
        assert_eq!(view.scroll, rows - 2);
        view.act(Command::Scroll(isize::MIN));
        assert_eq!(view.scroll, 0);
        assert!(!view.act(Command::Quit));
    }

    #[test]
    fn figures_stay_while_the_server_is_away() {
        let mut view = View::default();
        view.apply(Look::default());
        view.fail("no answer".to_owned());
        let since = view.away.clone().map(|(_, since)| since);
        view.fail("refused".to_owned());
        assert_eq!(view.away.clone().map(|(_, since)| since), since);
        assert!(view.last.is_some());
        view.apply(Look::default());
        assert!(view.away.is_none());
    }

    #[test]
    fn paused_view_does_not_change() {
        let mut view = View::default();
        view.act(Command::Pause);
        view.apply(Look::default());
        assert!(view.last.is_none());
        view.act(Command::Pause);
        view.apply(Look::default());
        assert!(view.last.is_some());
    }
}
