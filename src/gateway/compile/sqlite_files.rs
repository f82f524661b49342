//! SQLite files: checks that the file of a store is a database, and that it is Django's or ours as
//! configured.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use super::compiler::Compiler;
use crate::config::{Problem, SourceLocation, StoreUrl};

/// The first bytes of every SQLite database.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// The table that `manage.py migrate` creates first.
const MIGRATIONS: &[u8] = b"django_migrations";

/// The definition of that table is near the start, so a long file is not read to its end.
const SCANNED_BYTES_MAX: u64 = 16 << 20;
const CHUNK_BYTES: usize = 64 << 10;

impl Compiler<'_> {
    /// Checks the files of `session.store` and `auth.users`.
    pub(super) fn check_files(&mut self) {
        let (session, auth) = (&self.config.session, &self.config.auth);
        for (location, url) in [
            (session.location.key("store"), &session.store),
            (auth.location.key("users"), &auth.users),
        ] {
            if self.error_locations.overlaps(&location) {
                continue;
            }
            if let Some(problem) = problem_of(location, url) {
                self.problems.push(problem);
            }
        }
    }
}

fn problem_of(location: SourceLocation, url: &StoreUrl) -> Option<Problem> {
    match url {
        StoreUrl::Sqlite(path) | StoreUrl::DjangoSqlite(path) if is_other_file(path) => {
            let path = path.display();
            let message = format!("expected a SQLite database, found another file at {path}");
            Some(Problem::error(location, message))
        }
        StoreUrl::Sqlite(path) if missing_directory(path).is_some() => {
            let directory = missing_directory(path)?.display();
            let message =
                format!("expected a directory for the database, found none at {directory}");
            Some(Problem::error(location, message).with_hint("make the directory first"))
        }
        StoreUrl::DjangoSqlite(path) => {
            let found = match fs::metadata(path) {
                Ok(found) if found.is_dir() => "a directory",
                Ok(_) => return None,
                Err(error) if error.kind() == ErrorKind::NotFound => "no file",
                // The server reports other errors when it opens the file.
                Err(_) => return None,
            };
            let path = path.display();
            let message =
                format!("expected the Django project's database, found {found} at {path}");
            let hint = "a relative path starts from the directory of this file";
            Some(Problem::error(location, message).with_hint(hint))
        }
        StoreUrl::Sqlite(path) if is_of_django(path).unwrap_or(false) => {
            let message = format!(
                "expected a database of our own, found that of a Django project at {}",
                path.display()
            );
            let hint = format!(
                "write \"django+sqlite:{}\" to read its sessions and users, or name another file",
                path.display()
            );
            Some(Problem::error(location, message).with_hint(hint))
        }
        _ => None,
    }
}

/// Returns whether a file is something other than a SQLite database. An empty file counts as a
/// database.
fn is_other_file(path: &Path) -> bool {
    let mut start = Vec::with_capacity(MAGIC.len());
    let read = File::open(path).and_then(|file| {
        let mut file = file.take(MAGIC.len() as u64);
        file.read_to_end(&mut start)
    });
    read.is_ok() && !start.is_empty() && start != MAGIC
}

/// Returns the directory of a file, if it does not exist.
fn missing_directory(path: &Path) -> Option<&Path> {
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty())?;
    let error = fs::metadata(directory).err()?;
    (error.kind() == ErrorKind::NotFound).then_some(directory)
}

/// Returns whether a SQLite file has the tables of a Django project. Reads bytes instead of opening
/// the database, so it takes no lock.
fn is_of_django(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?.take(SCANNED_BYTES_MAX);
    let mut chunk = Vec::with_capacity(CHUNK_BYTES + MIGRATIONS.len());
    let mut is_first = true;
    loop {
        let read = (&mut file)
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut chunk)?;
        if read == 0 || (is_first && !chunk.starts_with(MAGIC)) {
            return Ok(false);
        }
        is_first = false;
        if chunk
            .windows(MIGRATIONS.len())
            .any(|window| window == MIGRATIONS)
        {
            return Ok(true);
        }
        // The name may span two chunks.
        let kept = chunk.len().saturating_sub(MIGRATIONS.len());
        chunk.drain(..kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_django_database_is_known_by_its_migrations_wherever_they_are() {
        let directory = std::env::temp_dir().join(format!("oneport-django-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let check = |name: &str, content: &[u8], expected: bool| {
            let path = directory.join(name);
            fs::write(&path, content).unwrap();
            assert_eq!(is_of_django(&path).unwrap(), expected, "{name}");
        };
        let table = b"CREATE TABLE \"django_migrations\" (\"id\" integer)";
        check("near", &[MAGIC, table].concat(), true);
        let gap = vec![b'.'; CHUNK_BYTES - MAGIC.len() - 20];
        check("across", &[MAGIC, &gap, table].concat(), true);
        check("far", &[MAGIC, &vec![0; 300_000], table].concat(), true);
        check("other", &[MAGIC, &vec![0; 300_000]].concat(), false);
        check("empty", b"", false);
        check("text", b"about django_migrations", false);
        assert!(is_of_django(&directory.join("none")).is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
