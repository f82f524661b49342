//! Terminal: keys, sizes and signals, and leaving the terminal as it was.
//!
//! The screen is the alternate one, so what was printed before is there again at the end. It is
//! left on every way out: a key, a signal, an error, a panic.

use std::io;
use std::mem::ManuallyDrop;
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{DefaultTerminal, Terminal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::look::{Look, Source};
use super::screen::{Palette, draw};
use super::view::{Command, Tab, View};

/// How many keys and figures wait to be shown.
const WAITING_MAX: usize = 16;

/// How often the time since which the server is away is drawn again.
const REDRAW: Duration = Duration::from_secs(1);

/// How many rows Page Up and Page Down move by.
const PAGE: isize = 10;

/// Leaves the screen when it is dropped. The terminal is not: it would write to standard error if it
/// cannot show the cursor, and panic where that is the terminal which has gone.
struct Screen(ManuallyDrop<DefaultTerminal>);

impl Screen {
    /// Enters the alternate screen. A panic leaves it before its message is printed.
    fn enter() -> io::Result<Self> {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            print(info);
        }));
        let entered = enable_raw_mode()
            .and_then(|()| execute!(io::stdout(), EnterAlternateScreen))
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        match entered {
            Ok(terminal) => Ok(Self(ManuallyDrop::new(terminal))),
            Err(error) => {
                leave();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Leaves the screen, as far as the terminal is still there.
fn leave() {
    let _ = disable_raw_mode();
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
}

/// Shows the figures until the user quits or a signal comes.
pub(super) async fn show(source: Source, interval: Duration) -> Result<(), String> {
    let cannot = |error: io::Error| format!("cannot use the terminal: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let palette = Palette::of_environment();
    let shown = source.shown();
    let mut screen = Screen::enter().map_err(cannot)?;
    let mut events = events();
    let mut looks = looks(source, interval);
    let mut redraw = tokio::time::interval(REDRAW);
    let mut view = View::default();
    loop {
        match screen.0.draw(|frame| draw(frame, &view, &shown, palette)) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(()), // it is gone
            drawn => {
                drawn.map_err(cannot)?;
            }
        }
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => {
                    if let Some(command) = command(&event)
                        && !view.act(command)
                    {
                        return Ok(());
                    }
                }
                None => return Ok(()), // the terminal is gone
            },
            Some(look) = looks.recv() => match look {
                Ok(look) => view.apply(look),
                Err(sentence) => view.fail(sentence),
            },
            _ = redraw.tick() => {}
            _ = terminate.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// Reads events of the terminal in a thread, because reading blocks. It ends with the receiver or
/// the terminal.
fn events() -> mpsc::Receiver<Event> {
    let (to, events) = mpsc::channel(WAITING_MAX);
    let read = move || {
        while let Ok(event) = event::read() {
            if to.blocking_send(event).is_err() {
                return;
            }
        }
    };
    // Without a thread the receiver is closed, which ends `show`.
    let _ = std::thread::Builder::new()
        .name("keys".to_owned())
        .spawn(read);
    events
}

/// Asks the server at every interval.
fn looks(source: Source, interval: Duration) -> mpsc::Receiver<Result<Look, String>> {
    let (to, looks) = mpsc::channel(WAITING_MAX);
    let asking = async move {
        loop {
            if to.send(source.look().await).await.is_err() {
                return;
            }
            tokio::time::sleep(interval).await;
        }
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "the command has no `Tasks`; the runtime ends the task"
    )]
    tokio::spawn(asking);
    looks
}

/// Returns the command of a key.
fn command(event: &Event) -> Option<Command> {
    let Event::Key(key) = event else {
        return None; // a new size is drawn anyway
    };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c' | 'd') if is_control => Command::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Command::Quit,
        KeyCode::Char('1') => Command::Show(Tab::Routes),
        KeyCode::Char('2') => Command::Show(Tab::Ends),
        KeyCode::Char('3') => Command::Show(Tab::Health),
        KeyCode::Tab => Command::NextTab,
        KeyCode::Char('s') => Command::NextColumn,
        KeyCode::Char('r') => Command::Reverse,
        KeyCode::Char(' ') => Command::Pause,
        KeyCode::Up | KeyCode::Char('k') => Command::Scroll(-1),
        KeyCode::Down | KeyCode::Char('j') => Command::Scroll(1),
        KeyCode::PageUp => Command::Scroll(-PAGE),
        KeyCode::PageDown => Command::Scroll(PAGE),
        KeyCode::Home => Command::Scroll(isize::MIN),
        KeyCode::End => Command::Scroll(isize::MAX),
        _ => return None,
    })
}
