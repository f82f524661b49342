//! Screen: draws the view.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table, Wrap};

use super::format::duration;
use super::rows::{self, Column, Sheet, Tone};
use super::view::{Tab, View};

/// The width from which all columns are shown.
const WIDE: u16 = 120;

/// The space of one figure.
const FIGURE_WIDTH: u16 = 26;

/// The colours, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    pub(super) has_colours: bool,
}

impl Palette {
    /// Colours, unless the user or the terminal has none (<https://no-color.org>).
    pub(super) fn of_environment() -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let term = std::env::var("TERM").unwrap_or_default();
        let is_mono = term.ends_with("-m") || term.starts_with("vt1") || term.starts_with("vt2");
        Self {
            has_colours: !is_set("NO_COLOR") && !is_mono,
        }
    }

    fn colour(self, colour: Color) -> Style {
        match self.has_colours {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    fn tone(self, tone: Tone) -> Style {
        match tone {
            Tone::Plain => Style::new(),
            Tone::Warn => self.colour(Color::Yellow),
            Tone::Bad => self.colour(Color::Red).add_modifier(Modifier::BOLD),
        }
    }
}

/// Draws the view; `source` is the server's URL.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, source: &str, palette: Palette) {
    let area = frame.area();
    let figures = view
        .last
        .as_ref()
        .map_or_else(Vec::new, |last| rows::figures(&last.snapshot, &view.rates));
    let per_line = (area.width / FIGURE_WIDTH).clamp(1, 8);
    let lines = u16::try_from(figures.len()).unwrap_or(0).div_ceil(per_line);
    // On a small screen the table matters more.
    let lines = lines.min(area.height.saturating_sub(7));
    let notice = u16::from(view.away.is_some());
    let [title, away, summary, tabs, table, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(notice),
        Constraint::Length(lines),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(title_line(view, source), title);
    if let Some((sentence, since)) = &view.away {
        let seconds = since.elapsed().as_secs_f64();
        let text = format!("away for {}: {sentence}; trying again", duration(seconds));
        frame.render_widget(Paragraph::new(text).style(palette.tone(Tone::Bad)), away);
    }
    frame.render_widget(figure_lines(&figures, per_line), summary);
    frame.render_widget(tab_line(view), tabs);
    draw_table(frame, table, &view.sheet(view.tab), view.scroll, palette);
    frame.render_widget(key_line(), keys);
}

fn title_line(view: &View, source: &str) -> Line<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let Some(last) = &view.last else {
        return Line::from(vec![
            Span::styled("oneport top", bold),
            Span::raw(format!("  {source}")),
        ]);
    };
    let now = &last.snapshot;
    let mut spans = vec![
        Span::styled(now.name.clone(), bold),
        Span::raw(format!(
            "  oneport {}  up {}",
            now.version,
            duration(now.uptime)
        )),
    ];
    for (is_so, word) in [(now.draining, "draining"), (view.is_paused, "paused")] {
        if is_so {
            let reversed = Style::new().add_modifier(Modifier::REVERSED);
            spans.extend([Span::raw("  "), Span::styled(format!(" {word} "), reversed)]);
        }
    }
    Line::from(spans)
}

fn figure_lines(figures: &[(&'static str, String)], per_line: u16) -> Paragraph<'static> {
    let dim = Style::new().add_modifier(Modifier::DIM);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let lines = figures.chunks(per_line.into()).map(|some| {
        let spans = some.iter().flat_map(|(label, value)| {
            [
                Span::styled(format!("{label:>11} "), dim),
                Span::styled(format!("{value:<13} "), bold),
            ]
        });
        Line::from(spans.collect::<Vec<_>>())
    });
    Paragraph::new(Text::from(lines.collect::<Vec<_>>()))
}

fn tab_line(view: &View) -> Line<'static> {
    let mut spans = Vec::new();
    for (at, tab) in Tab::ALL.into_iter().enumerate() {
        let style = match tab == view.tab {
            true => Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD),
            false => Style::new(),
        };
        spans.push(Span::styled(format!(" {} {} ", at + 1, tab.name()), style));
        spans.push(Span::raw(" "));
    }
    if view.tab == Tab::Routes {
        let order = if view.is_reversed { ", reversed" } else { "" };
        let sort = rows::SORTED_BY[view.sort];
        spans.push(Span::styled(
            format!(" by {sort}{order}"),
            Style::new().add_modifier(Modifier::DIM),
        ));
    }
    Line::from(spans)
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, sheet: &Sheet, scroll: usize, palette: Palette) {
    if sheet.rows.is_empty() {
        let nothing = Paragraph::new("nothing to show").wrap(Wrap { trim: true });
        frame.render_widget(nothing, area);
        return;
    }
    let shown: Vec<(usize, &Column)> = sheet
        .columns
        .iter()
        .enumerate()
        .filter(|(_, column)| area.width >= WIDE || !column.is_wide)
        .collect();
    let last = shown.len().saturating_sub(1);
    let widths: Vec<Constraint> = shown
        .iter()
        .enumerate()
        .map(|(place, (at, column))| {
            let cells = sheet.rows.iter().map(|row| row.cells[*at].chars().count());
            let widest = cells.max().unwrap_or(0).max(column.name.len());
            let width = u16::try_from(widest).unwrap_or(u16::MAX);
            match column.is_number {
                true => Constraint::Length(width),
                // The last text takes the rest.
                false if place == last => Constraint::Fill(1),
                false => Constraint::Length(width.min(40)),
            }
        })
        .collect();
    let cell = |text: &str, column: &Column| {
        let alignment = match column.is_number {
            true => Alignment::Right,
            false => Alignment::Left,
        };
        Cell::from(Text::from(text.to_owned()).alignment(alignment))
    };
    let heading = shown.iter().map(|(_, column)| cell(column.name, column));
    let heading = TableRow::new(heading.collect::<Vec<_>>())
        .style(Style::new().add_modifier(Modifier::UNDERLINED | Modifier::DIM));
    let rows = sheet.rows.iter().skip(scroll).map(|row| {
        let cells = shown
            .iter()
            .map(|(at, column)| cell(&row.cells[*at], column));
        TableRow::new(cells.collect::<Vec<_>>()).style(palette.tone(row.tone))
    });
    let table = Table::new(rows.collect::<Vec<_>>(), widths)
        .header(heading)
        .column_spacing(2);
    frame.render_widget(table, area);
}

fn key_line() -> Line<'static> {
    let keys = "q quit  1-3 Tab tables  s sort  r reverse  ↑↓ PgUp PgDn scroll  Space pause";
    Line::from(Span::styled(keys, Style::new().add_modifier(Modifier::DIM)))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::top::look::Look;
    use crate::cli::top::view::Command;

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let palette = Palette { has_colours: false };
        terminal
            .draw(|frame| draw(frame, view, "http://127.0.0.1:8000/api/", palette))
            .unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn every_size_can_be_drawn() {
        let mut view = View::default();
        for _ in 0..2 {
            for (width, height) in [(1, 1), (3, 2), (20, 5), (80, 24), (300, 100)] {
                for tab in Tab::ALL {
                    view.act(Command::Show(tab));
                    drawn(&view, width, height);
                }
            }
            view.apply(Look::default());
            view.fail("no answer".to_owned());
        }
    }

    #[test]
    fn screen_tells_the_keys_and_that_the_server_is_away() {
        let mut view = View::default();
        view.fail("connection refused".to_owned());
        let shown = drawn(&view, 100, 24);
        assert!(
            shown.contains("away for 0s: connection refused; trying again"),
            "{shown}"
        );
        assert!(shown.contains("q quit"), "{shown}");
        assert!(shown.contains("http://127.0.0.1:8000/api/"), "{shown}");
    }
}
