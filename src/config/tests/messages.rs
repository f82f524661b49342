//! Tests of messages: what they advise, and what they must not show.

use std::path::Path;

use super::env;
use crate::config::*;

fn parse(text: &str) -> Config {
    Config::parse("oneport.toml", text, Path::new("/srv/config"), &env)
        .unwrap()
        .0
}

fn problems(text: &str) -> Problems {
    Config::parse("oneport.toml", text, Path::new("/srv/config"), &env).unwrap_err()
}

#[test]
fn only_a_file_that_is_not_there_is_answered_with_a_new_project() {
    let dir = std::env::temp_dir().join(format!("oneport-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let of_directory = Config::load(&dir, &env).unwrap_err().to_string();
    std::fs::write(dir.join("oneport.toml"), "").unwrap();
    let of_project = Config::load(&dir, &env).unwrap_err().to_string();
    std::fs::remove_dir_all(&dir).unwrap();
    let shown = dir.display();
    assert_eq!(
        of_directory,
        format!("{shown}: cannot read the file: is a directory")
    );
    assert_eq!(
        of_project,
        format!(
            "{shown}: cannot read the file: is a directory (write --config {shown}/oneport.toml)"
        )
    );
    let denied = include::Unreadable {
        message: "cannot read the file: permission denied".to_owned(),
        kind: Some(std::io::ErrorKind::PermissionDenied),
    };
    let denied = load::unreadable(Path::new("a.toml"), denied).to_string();
    assert!(
        denied.contains("(is it readable for user ") && !denied.contains("init"),
        "{denied}"
    );
}

#[test]
fn no_message_shows_a_secret_of_a_url() {
    let file = |line: &str| format!("[session]\nstore = \"{line}\"\n[auth]\nusers = 1\n");
    for url in [
        "mysql://u:s3c@h/app",
        "postgre://h/db?password=s3c",
        "amqp://:s3c@h",
        "http://s3c@h",
        "django+oracle://h?token=s3c",
    ] {
        let found = problems(&file(url));
        let long: String = found
            .iter()
            .map(|problem| problem.snippet().to_string())
            .collect();
        assert!(found.to_string().contains("(hidden)"), "{url}: {found}");
        assert!(
            !format!("{found}{found:?}{long}").contains("s3c"),
            "{url}: {found}\n{long}"
        );
    }
}

#[test]
fn no_configuration_shows_a_secret_of_a_url() {
    let config = parse(
        "[session]\nstore = \"postgres://u:s3c@h/app?password=s3c\"\n\
         [auth]\nusers = \"django+postgres://u:s3c@h/app\"\n\
         [auth.forward]\nurl = \"http://s3c@h/auth?token=s3c\"\n\
         [channel_layer]\nbackend = [\"redis://:s3c@h\", \"redis+unix:///r.sock?pass=s3c\"]\n\
         [[websocket.route]]\npath = \"/\"\nconsumer = \"backend\"\noptions = { url = \"http://h/?token=s3c\" }\n",
    );
    let shown = format!("{config:?}{}{}", config.session.store, config.auth.users);
    assert!(!shown.contains("s3c"), "{shown}");
    for backend in [
        "redis://:s3c@h",
        "rediss+sentinel://u:s3c@h/service",
        "redis+cluster://:s3c@h",
    ] {
        let backend: Backend = backend.parse().unwrap();
        assert!(!format!("{backend:?}{backend}").contains("s3c"));
    }
}
