//! `oneport man`.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::arguments::{Arguments, ManArguments};
use super::output::print_error;
use super::{CONFIG, FAILURE, OK, USAGE};
use crate::timestamp::Timestamp;

/// The exit codes of all commands.
const EXIT_CODES: [(u8, &str); 4] = [
    (OK, "The command has done its work; a server has drained."),
    (
        FAILURE,
        "It failed while running, such as a server that cannot listen on an address.",
    ),
    (USAGE, "The command line is wrong."),
    (CONFIG, "The configuration is wrong."),
];

const SIGNALS: [(&str, &str); 4] = [
    (
        "SIGTERM, SIGINT",
        "Drain: requests finish, sockets are closed in batches. A second one ends the process at once.",
    ),
    (
        "SIGHUP",
        "Reload the configuration. A file with a mistake changes nothing.",
    ),
    ("SIGUSR1", "Open the files of the log again."),
    (
        "SIGUSR2",
        "Start the program that is now at the path of the running one; it takes over the listeners.",
    ),
];

const ENVIRONMENT: [(&str, &str); 4] = [
    (
        "ONEPORT_SECRET_KEY",
        "The key that signs cookies and logins, if server.secret_key is not set.",
    ),
    (
        "ONEPORT_PUBLISH_URL, ONEPORT_PUBLISH_TOKEN, ONEPORT_PUBLISH_CA",
        "The server API for the command publish.",
    ),
    (
        "LISTEN_FDS, LISTEN_PID",
        "Sockets that systemd passes on, for addresses such as fd:3.",
    ),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC",
        "Where systemd is told that the server is ready, reloads, stops, and still works.",
    ),
];

const FILES: [(&str, &str); 2] = [
    (
        "config/oneport.toml",
        "The configuration, if --config names no other.",
    ),
    (
        "/etc/oneport/oneport.toml",
        "That of the service oneport.service of the Debian package.",
    ),
];

pub(super) fn run(arguments: &ManArguments) -> u8 {
    match write_pages(&arguments.dir) {
        Ok(()) => OK,
        Err(error) => {
            print_error(&format!(
                "oneport man: cannot write to {}: {error}",
                arguments.dir.display()
            ));
            FAILURE
        }
    }
}

/// Writes a page for the command and one for each of its commands.
fn write_pages(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for (name, page) in pages(&command())? {
        fs::write(dir.join(name), page)?;
    }
    Ok(())
}

/// Returns the command and those below it, without `help`, which is no command of its own.
fn command() -> Command {
    fn without_help(command: Command) -> Command {
        command
            .disable_help_subcommand(true)
            .mut_subcommands(without_help)
    }
    let mut command = without_help(Arguments::command());
    command.build();
    command
}

/// Returns the pages of a command and those below it, by file name.
fn pages(command: &Command) -> io::Result<Vec<(String, String)>> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    let mut written = vec![(format!("{name}.1"), page(command)?)];
    let shown = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set());
    for below in shown {
        written.extend(pages(below)?);
    }
    Ok(written)
}

fn page(command: &Command) -> io::Result<String> {
    let today = Timestamp::now().to_string();
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .date(today.get(..10).unwrap_or_default())
        .source(concat!("Oneport ", env!("CARGO_PKG_VERSION")))
        .manual("Oneport");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command
        .get_arguments()
        .any(|argument| !argument.is_hide_set())
    {
        man.render_options_section(&mut page)?;
    }
    let has_commands = command.has_subcommands();
    if has_commands {
        man.render_subcommands_section(&mut page)?;
    }
    let mut page = String::from_utf8_lossy(&page).into_owned();
    let is_whole = command.get_name() == "oneport";
    if is_whole || command.get_name() == "oneport-serve" || command.get_name() == "serve" {
        section(&mut page, "SIGNALS", &SIGNALS);
    }
    if is_whole {
        let codes = EXIT_CODES.map(|(code, when)| (code.to_string(), when));
        let codes = codes.each_ref().map(|(code, when)| (code.as_str(), *when));
        section(&mut page, "EXIT STATUS", &codes);
        section(&mut page, "ENVIRONMENT", &ENVIRONMENT);
        section(&mut page, "FILES", &FILES);
        let names: Vec<String> = command
            .get_subcommands()
            .filter(|below| !below.is_hide_set())
            .map(|below| format!("oneport\\-{}(1)", below.get_name().replace('-', "\\-")))
            .collect();
        let _ = write!(page, ".SH \"SEE ALSO\"\n{}\n", names.join(",\n"));
    } else {
        page.push_str(".SH \"SEE ALSO\"\noneport(1)\n");
    }
    Ok(tidy(&page))
}

/// Adds a section of terms with their meanings.
fn section(page: &mut String, heading: &str, terms: &[(&str, &str)]) {
    let _ = writeln!(page, ".SH \"{heading}\"");
    for (term, meaning) in terms {
        let _ = write!(
            page,
            ".TP\n\\fB{}\\fR\n{}\n",
            escaped(term),
            escaped(meaning)
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('-', "\\-")
}

/// The longest line of a page's source.
const LINE_MAX: usize = 79;

/// Removes blanks at the end of lines, paragraphs without a text and repeated breaks; breaks long
/// lines.
fn tidy(page: &str) -> String {
    let lines: Vec<&str> = page.lines().map(str::trim_end).collect();
    let mut kept = String::with_capacity(page.len() + page.len() / 32);
    for (at, line) in lines.iter().enumerate() {
        let next = lines.get(at + 1).copied().unwrap_or(".SH");
        let begins_nothing = [".PP", ".RS", ".SH", ".TP"]
            .iter()
            .any(|macro_name| next.starts_with(macro_name));
        let is_repeated = *line == ".br" && kept.ends_with(".br\n");
        if line.is_empty() || is_repeated || *line == ".PP" && begins_nothing {
            continue;
        }
        match line.starts_with('.') {
            true => kept.push_str(line),
            false => break_line(line, &mut kept),
        }
        kept.push('\n');
    }
    kept
}

/// Breaks a line of text at its blanks, not before what would be a macro.
fn break_line(line: &str, out: &mut String) {
    let mut length = 0;
    for word in line.split(' ') {
        let fits = length + 1 + word.len() <= LINE_MAX;
        if length > 0 {
            let may_begin = !word.starts_with(['.', '\'']) && !word.is_empty();
            match fits || !may_begin {
                true => {
                    out.push(' ');
                    length += 1;
                }
                false => {
                    out.push('\n');
                    length = 0;
                }
            }
        }
        out.push_str(word);
        length += word.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<(String, String)> {
        pages(&command()).unwrap()
    }

    #[test]
    fn every_command_has_a_page_with_its_synopsis() {
        let pages = written();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for expected in [
            "oneport.1",
            "oneport-serve.1",
            "oneport-check.1",
            "oneport-user-add.1",
        ] {
            assert!(names.contains(&expected), "{expected} in {names:?}");
        }
        for (name, page) in &pages {
            for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "\"SEE ALSO\""] {
                assert!(
                    page.contains(&format!(".SH {heading}\n")),
                    "{heading} in {name}\n{page}"
                );
            }
        }
    }

    #[test]
    fn only_the_page_of_the_whole_has_exit_codes_and_files() {
        for (name, page) in written() {
            let is_whole = name == "oneport.1";
            assert_eq!(page.contains(".SH \"EXIT STATUS\""), is_whole, "{name}");
            assert_eq!(page.contains(".SH \"FILES\""), is_whole, "{name}");
        }
    }

    #[test]
    fn long_lines_are_broken_at_blanks_and_not_before_a_macro() {
        let long = format!(
            "{} .TH {}",
            "word ".repeat(16).trim_end(),
            "more ".repeat(20)
        );
        let tidied = tidy(&long);
        assert!(
            tidied.lines().all(|line| line.len() <= LINE_MAX + 4),
            "{tidied}"
        );
        assert!(!tidied.contains("\n.TH"), "{tidied}");
        assert_eq!(tidied.split_whitespace().count(), 37);
        let title = format!(".TH {}\n", "x ".repeat(60).trim_end());
        assert_eq!(tidy(&title), title);
    }

    #[test]
    fn paragraphs_without_a_text_and_blanks_are_removed() {
        let page = "a \n.PP\n.PP\nb\n\n.br\n\n.br\nc\n.PP\n.SH X\n.PP\n";
        assert_eq!(tidy(page), "a\n.PP\nb\n.br\nc\n.SH X\n");
    }
}
