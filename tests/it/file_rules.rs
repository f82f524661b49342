//! File rules: which files `static` serves, with which `Cache-Control`, and its listings.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use http::Response;
use oneport::testing::{Application, HttpCommunicator};

use crate::support::{Directory, field};

fn serving(directory: &Directory, options: &str) -> Application {
    let dir = directory.path("www").display().to_string();
    let text = format!(
        "[[http.route]]\npath = '/{{*path}}'\nview = 'static'\noptions = {{ dir = '{dir}', {options} }}\n"
    );
    Application::parse(&text).unwrap()
}

async fn get(app: &Application, path: &str) -> Response<bytes::Bytes> {
    HttpCommunicator::get(path).send(app).await
}

#[tokio::test]
async fn symbolic_links_are_followed_by_the_rule() {
    let directory = Directory::new()
        .with("secret.txt", "secret")
        .with("www/a.txt", "a")
        .with("www/sub/b.txt", "b");
    let www = directory.path("www");
    symlink("a.txt", www.join("inside.txt")).unwrap();
    symlink("../a.txt", www.join("sub/up.txt")).unwrap();
    symlink("sub", www.join("folder")).unwrap();
    symlink("../secret.txt", www.join("outside.txt")).unwrap();
    symlink(directory.path("secret.txt"), www.join("absolute.txt")).unwrap();
    symlink(www.join("a.txt"), www.join("absolute-inside.txt")).unwrap();
    symlink("..", www.join("parent")).unwrap();
    symlink("/proc/self/root", www.join("magic")).unwrap();
    let secret = format!("/magic{}", directory.path("secret.txt").display());
    for (path, [follow, inside, deny]) in [
        ("/a.txt", [200, 200, 200]),
        ("/sub/b.txt", [200, 200, 200]),
        ("/inside.txt", [200, 200, 404]),
        ("/sub/up.txt", [200, 200, 404]),
        ("/folder/b.txt", [200, 200, 404]),
        ("/outside.txt", [200, 404, 404]),
        ("/absolute.txt", [200, 404, 404]),
        // An absolute target starts at the root of the file system, even if it leads inside.
        ("/absolute-inside.txt", [200, 404, 404]),
        ("/parent/secret.txt", [200, 404, 404]),
        (&secret, [200, 404, 404]),
    ] {
        for (rule, expected) in [("follow", follow), ("inside", inside), ("deny", deny)] {
            let app = serving(&directory, &format!("symlinks = '{rule}'"));
            assert_eq!(get(&app, path).await.status(), expected, "{rule} {path}");
        }
        assert_eq!(get(&serving(&directory, ""), path).await.status(), follow);
    }
}

/// A rename between a check and the opening must not lead out: the kernel checks while it opens.
#[tokio::test]
async fn a_link_that_changes_meanwhile_never_leads_out() {
    let directory = Directory::new()
        .with("secret.txt", "secret")
        .with("www/a.txt", "a");
    let www = directory.path("www");
    let app = serving(&directory, "symlinks = 'inside'");
    let is_over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = is_over.clone();
    let swapping = std::thread::spawn(move || {
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            for target in ["a.txt", "../secret.txt"] {
                let _ = fs::remove_file(www.join("next"));
                symlink(target, www.join("next")).unwrap();
                fs::rename(www.join("next"), www.join("link.txt")).unwrap();
            }
        }
    });
    for _ in 0..500 {
        let response = get(&app, "/link.txt").await;
        assert_ne!(response.body(), "secret");
        assert!([200, 404].contains(&response.status().as_u16()));
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    swapping.join().unwrap();
}

#[tokio::test]
async fn dotfiles_are_served_by_the_rule() {
    let directory = Directory::new()
        .with("www/.env", "secret")
        .with("www/.git/config", "secret")
        .with("www/.well-known/security.txt", "contact")
        .with("secret", "secret");
    for (path, [deny, allow]) in [
        ("/.env", [404, 200]),
        ("/.git/config", [404, 200]),
        ("/.well-known/security.txt", [200, 200]),
        ("/../secret", [400, 400]),
        ("/./.env", [400, 400]),
    ] {
        for (rule, expected) in [("deny", deny), ("allow", allow)] {
            let app = serving(&directory, &format!("dotfiles = '{rule}'"));
            let found = get(&app, path).await.status();
            assert_eq!(found, expected, "{rule} {path}");
        }
    }
}

#[tokio::test]
async fn cache_control_is_that_of_the_first_rule_that_matches() {
    let directory = Directory::new()
        .with("www/index.html", "i")
        .with("www/assets/app.0a1b2c3d4e5f.js", "j")
        .with("www/assets/app.js", "j")
        .with("www/logo.png", "p");
    let app = serving(
        &directory,
        "cache_rules = [\
         { files = '*.[hash].{css,js}', cache_control = 'public, max-age=31536000, immutable' },\
         { files = 'assets/**', cache_control = 'public, max-age=60' },\
         { files = '*.js', cache_control = 'no-store' } ]",
    );
    for (path, expected) in [
        (
            "/assets/app.0a1b2c3d4e5f.js",
            "public, max-age=31536000, immutable",
        ),
        ("/assets/app.js", "public, max-age=60"),
        ("/logo.png", "no-cache"),
        ("/", "no-cache"),
    ] {
        let response = get(&app, path).await;
        assert_eq!(field(&response, "cache-control"), Some(expected), "{path}");
    }
}

#[tokio::test]
async fn a_directory_is_listed_only_if_asked() {
    let directory = Directory::new()
        .with("www/b.txt", "12345")
        .with("www/A.txt", "")
        .with("www/sub/index.html", "index")
        .with("www/other/c", "")
        .with("www/.hidden", "")
        .with("www/<i>&\"'.txt", "")
        .with("www/a b#?%.txt", "");
    symlink("/etc", directory.path("www/out")).unwrap();
    symlink("nowhere", directory.path("www/dangling")).unwrap();
    let plain = serving(&directory, "");
    assert_eq!(get(&plain, "/other/").await.status(), 404);
    assert_eq!(get(&plain, "/other").await.status(), 308);
    let app = serving(&directory, "listing = true, symlinks = 'inside'");
    assert_eq!(get(&app, "/other").await.status(), 308);
    assert_eq!(get(&app, "/missing/").await.status(), 404);
    assert_eq!(get(&app, "/b.txt/").await.status(), 404);
    assert_eq!(get(&app, "/sub/").await.body(), "index");
    let page = get(&app, "/").await;
    assert_eq!(page.status(), 200);
    assert_eq!(
        field(&page, "content-type"),
        Some("text/html; charset=utf-8")
    );
    let page = String::from_utf8(page.body().to_vec()).unwrap();
    for absent in ["hidden", "out", "dangling", "<i>"] {
        assert!(!page.contains(absent), "{absent}");
    }
    assert!(page.contains("&lt;i&gt;&amp;&quot;&#39;.txt"), "{page}");
    assert!(page.contains("href=\"./a%20b%23%3F%25.txt\""), "{page}");
    assert!(page.contains("5 B"), "{page}");
    let json = HttpCommunicator::get("/").header("accept", "application/json");
    let listed: serde_json::Value = serde_json::from_slice(json.send(&app).await.body()).unwrap();
    let names: Vec<_> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "other",
            "sub",
            "<i>&\"'.txt",
            "a b#?%.txt",
            "A.txt",
            "b.txt"
        ]
    );
    let outside = get(&app, "/out/").await;
    assert_eq!(outside.status(), 404);
}

/// A directory that anyone may fill costs a bounded page.
#[tokio::test]
async fn of_a_large_directory_the_first_names_are_listed_and_the_others_counted() {
    let mut directory = Directory::new().with("www/zz/index.html", "");
    for number in 0..10_007 {
        directory = directory.with(&format!("www/many/{number:05}.txt"), "");
    }
    let app = serving(&directory, "listing = true");
    let page = get(&app, "/many/").await;
    let page = String::from_utf8(page.body().to_vec()).unwrap();
    assert!(page.contains("00000.txt") && page.contains("09999.txt"));
    assert!(!page.contains("10000.txt"));
    assert!(page.contains("<p>and 7 more</p>"), "{}", page.len());
    let json = HttpCommunicator::get("/many/").header("accept", "application/json");
    let listed: serde_json::Value = serde_json::from_slice(json.send(&app).await.body()).unwrap();
    assert_eq!(listed["entries"].as_array().unwrap().len(), 10_000);
    assert_eq!(listed["left_out"], 7);
    assert_eq!(listed["has_uncounted"], false);
}

#[tokio::test]
async fn a_listing_follows_the_changes_of_its_directory() {
    let directory = Directory::new().with("www/a.txt", "");
    let app = serving(&directory, "listing = true");
    let asked = (0..100).map(|_| get(&app, "/"));
    let pages = futures_util::future::join_all(asked).await;
    assert!(pages.iter().all(|page| page.body() == pages[0].body()));
    fs::write(directory.path("www/new.txt"), "").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let page = get(&app, "/").await;
        if String::from_utf8_lossy(page.body()).contains("new.txt") {
            return;
        }
        assert!(Instant::now() < deadline, "the new file");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two hosts have different directories at one path.
#[tokio::test]
async fn a_listing_is_that_of_its_own_directory() {
    let directory = Directory::new()
        .with("www/sub/inner.txt", "")
        .with("www/outer.txt", "");
    let dir = directory.path("www").display().to_string();
    let route = |host: &str, path: &str| {
        format!(
            "[[http.route]]\nhost = '{host}'\npath = '{path}'\nview = 'static'\n\
             options = {{ dir = '{dir}', listing = true }}\n"
        )
    };
    let text = format!(
        "[server]\nallowed_hosts = ['a.test', 'b.test']\n{}{}",
        route("a.test", "/f/{*path}"),
        route("b.test", "/f/sub/{*path}")
    );
    let app = Application::parse(&text).unwrap();
    for (host, listed) in [("a.test", "inner.txt"), ("b.test", "outer.txt")] {
        let request = HttpCommunicator::get("/f/sub/").header("host", host);
        let page = request.send(&app).await;
        let page = String::from_utf8(page.body().to_vec()).unwrap();
        assert!(page.contains(listed), "{host} {page}");
    }
}

#[test]
fn mistakes_in_the_rules_are_reported_at_their_key() {
    let check = |options: &str, expected: &str| {
        let text = format!(
            "[[http.route]]\npath = '/{{*path}}'\nview = 'static'\noptions = {{ dir = '.', {options} }}\n"
        );
        let problems = Application::parse(&text)
            .err()
            .map(|found| found.to_string());
        let problems = problems.unwrap_or_default();
        assert!(problems.contains(expected), "{options}: {problems}");
    };
    check("symlinks = 'outside'", "expected one of");
    check("dotfiles = 'inside'", "expected");
    check("index = '.index.html'", "neither hidden nor outside");
    let rule = |files: &str, value: &str| {
        format!("cache_rules = [{{ files = '{files}', cache_control = \"{value}\" }}]")
    };
    check(&rule("*.{css,js", "no-cache"), "found \"*.{css,js\"");
    check(&rule("", "no-cache"), "expected a pattern");
    check(
        &rule("*.css", "a\\u0000b"),
        "expected a header field's value",
    );
    check("cache_rules = [{ pattern = '*.css' }]", "pattern");
    check("cache_rules = 'no-cache'", "cache_rules");
}
