//! Tests of whole files, through the public door.

use std::path::Path;
use std::time::Duration;

use super::*;

mod broken;
mod messages;

pub(super) fn env(name: &str) -> Option<String> {
    match name {
        "HOST" => Some("example.com".to_owned()),
        "SECRET_TOKEN" => Some("hunter2-hunter2".to_owned()),
        _ => None,
    }
}

fn parse(text: &str) -> Config {
    let (config, warnings) =
        Config::parse("oneport.toml", text, Path::new("/srv/config"), &env).unwrap();
    assert!(warnings.is_empty(), "{warnings}");
    config
}

fn problems(text: &str) -> Problems {
    Config::parse("oneport.toml", text, Path::new("/srv/config"), &env).unwrap_err()
}

#[test]
fn an_empty_file_means_the_defaults() {
    let config = parse("");
    let default = Config::default();
    assert_eq!(config.server.bind, default.server.bind);
    assert_eq!(config.websocket.max_message, default.websocket.max_message);
    assert_eq!(config.templates.dir, Path::new("/srv/config/../templates"));
    assert_eq!(default.server.timeouts.handshake, Duration::from_secs(10));
}

#[test]
fn a_route_lays_its_own_keys_over_its_section() {
    let config = parse(
        r#"
        [websocket]
        middleware = ["hosts", "origin", "session"]
        max_message = "32 KiB"
        headers = { "x-b" = "1", "x-a" = "2" }

        [[websocket.route]]
        path = "/a"
        consumer = "echo"
        middleware = []
        ping_interval = "1m"

        [[websocket.route]]
        path = "/b"
        consumer = "echo"
        "#,
    );
    let [a, b] = config.websocket_routes.as_slice() else {
        panic!("two routes")
    };
    assert_eq!(a.settings.middleware, Vec::<String>::new());
    assert_eq!(a.settings.max_message, Size::kib(32));
    assert_eq!(a.settings.ping_interval, Duration::from_secs(60));
    assert_eq!(b.settings.middleware, ["hosts", "origin", "session"]);
    assert_eq!(b.settings.ping_interval, Duration::from_secs(25));
    let headers = [
        ("x-b".to_owned(), "1".to_owned()),
        ("x-a".to_owned(), "2".to_owned()),
    ];
    assert_eq!(b.settings.headers.written, headers);
}

#[test]
fn a_setting_is_found_where_it_is_written() {
    let config = parse(
        "[http]\nmiddleware = [\"a\"]\n\n[[http.route]]\npath = \"/\"\nview = \"x\"\nappend_slash = false\n",
    );
    let settings = &config.http_routes[0].settings;
    assert_eq!(
        settings.location_of("middleware").index(0).to_string(),
        "oneport.toml:2:15: http.middleware[0]"
    );
    assert_eq!(
        settings.location_of("append_slash").to_string(),
        "oneport.toml:7:16: http.route[0].append_slash"
    );
    assert_eq!(
        settings.location_of("headers").to_string(),
        "oneport.toml:4:1: http.route[0].headers"
    );
}

#[test]
fn relative_paths_start_at_their_file() {
    let config = parse("[server]\nbind = [\"unix:run/a.sock\"]\n[templates]\ndir = \"pages\"\n");
    assert_eq!(
        config.server.bind,
        [Bind::Unix("/srv/config/run/a.sock".into()).into()]
    );
    assert_eq!(config.templates.dir, Path::new("/srv/config/pages"));
}

#[test]
fn variables_are_filled_in_everywhere() {
    let config = parse(
        "[server]\nallowed_hosts = [\"${HOST}\", \"${NONE:-localhost}\"]\n\
         [[http.route]]\nregex = \"^/x$$\"\nview = \"respond\"\noptions = { body = [\"${HOST}\"] }\n",
    );
    assert_eq!(config.server.allowed_hosts, ["example.com", "localhost"]);
    assert_eq!(config.http_routes[0].regex.as_deref(), Some("^/x$"));
    #[derive(serde::Deserialize)]
    struct Body {
        body: Vec<String>,
    }
    assert_eq!(
        config.http_routes[0].options.read::<Body>().unwrap().body,
        ["example.com"]
    );
}

#[test]
fn options_say_everything_that_is_wrong_with_its_place() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its reading is tested")]
    struct Proxy {
        upstream: Vec<String>,
        certificate: ConfigPath,
        timeout: WrittenDuration,
        mode: Mode,
        pair: (u8, u8),
    }
    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    #[expect(dead_code, reason = "only its reading is tested")]
    enum Mode {
        Fast,
        Slow { delay: WrittenDuration },
    }
    let read = |options: &str| {
        let text = format!(
            "[[http.route]]\npath = \"/\"\nview = \"proxy\"\n[http.route.options]\n{options}"
        );
        parse(&text).http_routes[0].options.read::<Proxy>()
    };
    let good = "upstream = [\"a\"]\ncertificate = \"a.pem\"\ntimeout = \"1s\"\nmode.slow.delay = \"2s\"\npair = [1, 2]\n";
    assert_eq!(
        read(good).unwrap().certificate.0,
        Path::new("/srv/config/a.pem")
    );
    let bad = "upstream = \"a\"\ntimeout = 5\nmode = \"fats\"\npair = [1, 256]\nother = 1\n";
    assert_eq!(
        read(bad).unwrap_err().to_string(),
        "oneport.toml:4:1: http.route[0].options: missing key \"certificate\"\n\
         oneport.toml:5:12: http.route[0].options.upstream: expected an array, found string \"a\" (write [\"a\"])\n\
         oneport.toml:6:11: http.route[0].options.timeout: expected a duration such as \"10s\", found integer 5, \
         which has no unit: ms, s, m, h or d\n\
         oneport.toml:7:8: http.route[0].options.mode: expected \"fast\" or \"slow\", found \"fats\" (did you mean \"fast\"?)\n\
         oneport.toml:8:12: http.route[0].options.pair[1]: expected a whole number from 0 to 255, found integer 256\n\
         oneport.toml:9:1: http.route[0].options.other: unknown key \"other\"; known: upstream, certificate, timeout, mode, pair"
    );
    let nested = good.replace("\"2s\"", "2");
    let problems = read(&nested).unwrap_err().to_string();
    assert!(
        problems.starts_with(
            "oneport.toml:8:19: http.route[0].options.mode.slow.delay: expected a duration"
        ),
        "{problems}"
    );
}

#[test]
fn every_missing_key_is_named_at_once() {
    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only its reading is tested")]
    struct Backend {
        url: String,
        timeout: WrittenDuration,
        retries: u8,
        tls: Tls,
        body: Size,
    }
    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only its reading is tested")]
    struct Tls {
        certificate: ConfigPath,
        key: ConfigPath,
    }
    let read = |text: &str| {
        Options::from_toml(text)
            .unwrap()
            .read::<Backend>()
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        read(""),
        "options:1:1: missing key \"url\"\n\
         options:1:1: missing key \"timeout\"\n\
         options:1:1: missing key \"retries\"\n\
         options:1:1: missing key \"tls\"\n\
         options:1:1: missing key \"body\""
    );
    assert_eq!(
        read("url = \"x\"\ntimeout = \"1s\"\nretries = -1\ntls = 5\n"),
        "options:1:1: missing key \"body\"\n\
         options:3:11: retries: expected a whole number from 0 to 255, found integer -1\n\
         options:4:7: tls: expected a table, found integer 5"
    );
    assert_eq!(
        read("url = \"x\"\ntimeout = \"1s\"\nretries = 1\nbody = \"1 B\"\n[tls]\n"),
        "options:5:1: tls: missing key \"certificate\"\noptions:5:1: tls: missing key \"key\""
    );
}

#[test]
fn absent_options_read_as_an_empty_table() {
    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Chat {
        history: usize,
    }
    let config = parse("[[websocket.route]]\npath = \"/\"\nconsumer = \"chat\"\n");
    let options = &config.websocket_routes[0].options;
    assert!(options.is_empty());
    assert_eq!(options.read::<Chat>().unwrap().history, 0);
    assert_eq!(options.base(), Path::new("/srv/config"));
}

#[test]
fn a_secret_is_not_shown() {
    let text = "[[http.route]]\npath = \"/\"\nview = \"publish\"\noptions = { token = \"hunter2-hunter2\", note = 1 }\n\
                host = \"${SECRET_TOKEN}!\"\n";
    let shown = problems(text);
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    let problem = shown.iter().next().unwrap();
    assert!(!problem.snippet().to_string().contains("hunter2"));

    #[derive(Debug, serde::Deserialize)]
    struct Publish {
        #[serde(rename = "token")]
        _token: u64,
    }
    let options = Options::from_toml("token = \"hunter2-hunter2\"").unwrap();
    let shown = options.read::<Publish>().unwrap_err();
    let long = shown.iter().next().unwrap().snippet().to_string();
    assert!(
        !format!("{shown}{long}").contains("hunter2"),
        "{shown}{long}"
    );
    assert!(long.contains("1 | token = *****************"), "{long}");
}

#[test]
fn a_snippet_shows_the_line_with_carets() {
    let found = problems("[server]\n\tworkers = \"many\" # all\n");
    let long = found.iter().next().unwrap().snippet().to_string();
    assert_eq!(
        long,
        "error: server.workers: expected \"auto\" or a number of threads, 1 or more, found string \"many\"\n \
         --> oneport.toml:2:12\n  |\n2 |     workers = \"many\" # all\n  |               ^^^^^^"
    );
}

#[test]
fn problems_are_json_for_tools() {
    let found = problems("[servr]\n");
    assert_eq!(
        serde_json::to_value(&found).unwrap(),
        serde_json::json!([{
            "file": "oneport.toml", "line": 1, "column": 2, "path": "servr", "severity": "error",
            "message": "unknown key \"servr\"",
            "hint": "did you mean \"server\"?",
            "known": ["include", "server", "log", "metrics", "tracing", "templates", "session", "auth", "csrf", "channel_layer", "middleware", "http", "websocket"],
        }])
    );
}

#[test]
fn a_star_host_is_a_warning() {
    let text = "[server]\nallowed_hosts = [\"a.example\", \"*\"]\n";
    let (_, warnings) = Config::parse("oneport.toml", text, Path::new("."), &env).unwrap();
    assert!(
        warnings
            .to_string()
            .starts_with("oneport.toml:2:31: server.allowed_hosts[1]: warning: "),
        "{warnings}"
    );
    assert!(!warnings.is_fatal());
}

#[test]
fn a_missing_main_file_says_how_to_make_one() {
    let problems = Config::load(Path::new("none/oneport.toml"), &env).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "none/oneport.toml: cannot read the file: no such file or directory (`oneport init DIR` makes a new project)"
    );
}

#[test]
fn included_routes_come_first_with_their_prefix() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/config/included");
    let (config, _) = Config::load(&dir.join("main.toml"), &env).unwrap();
    let routes: Vec<String> = config
        .http_routes
        .iter()
        .map(|route| format!("{}{}", route.prefix, route.path.as_deref().unwrap_or("-")))
        .collect();
    assert_eq!(
        routes,
        [
            "/app/admin/users/",
            "/app/admin",
            "/app/",
            "/blog/",
            "/shop/",
            "/"
        ]
    );
    let location = &config.http_routes[0].location;
    assert_eq!(location.path(), "http.route[0]");
    assert!(
        location
            .document()
            .name()
            .ends_with("included/app/admin/users.toml"),
        "{location:?}"
    );
    assert!(location.base().ends_with("included/app/admin"));
    assert_eq!(
        config.http_routes[1].settings.middleware,
        ["hosts", "session"]
    );
    assert_eq!(config.documents.len(), 6);
}

#[test]
fn options_of_those_who_take_none_are_a_table_without_keys() {
    assert!(Options::default().read::<()>().is_ok());
    assert!(Options::from_toml("").unwrap().read::<()>().is_ok());
    let problems = Options::from_toml("colour = 1")
        .unwrap()
        .read::<()>()
        .unwrap_err()
        .to_string();
    assert!(problems.contains("unknown key \"colour\""), "{problems}");
}
