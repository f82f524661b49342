//! Reload and drain: which sockets notice, and which do not.

use std::path::Path;

use oneport::config::Config;
use oneport::gateway::{Registry, Table, compile};
use oneport::pace::Pace;
use oneport::testing::{Application, HttpCommunicator, LiveServer, WebsocketCommunicator};
use tokio::io::AsyncWriteExt;

const FILE: &str = "
[[http.route]]
path = '/old/'
view = 'health'
[[websocket.route]]
path = '/kept/'
consumer = 'echo'
[[websocket.route]]
path = '/changed/'
consumer = 'echo'
[[websocket.route]]
path = '/removed/'
consumer = 'echo'
";

fn table(text: &str) -> Table {
    let (config, _) = Config::parse("test.toml", text, Path::new("."), &|_| None).unwrap();
    compile(&config, &Registry::builtin()).unwrap().0
}

#[tokio::test]
async fn only_sockets_whose_own_route_changed_or_went_get_1012() {
    let app = Application::parse(FILE).unwrap();
    let mut kept = WebsocketCommunicator::new("/kept/")
        .connect(&app)
        .await
        .unwrap();
    let mut changed = WebsocketCommunicator::new("/changed/")
        .connect(&app)
        .await
        .unwrap();
    let mut removed = WebsocketCommunicator::new("/removed/")
        .connect(&app)
        .await
        .unwrap();
    while app.gateway().sockets().len() < 3 {
        tokio::task::yield_now().await;
    }
    // The kept route has moved in the file, and has a comment.
    let new = "
[[http.route]]
path = '/new/'
view = 'health'
[[websocket.route]]
path = '/changed/'
consumer = 'echo'
max_message = '1 KiB'

# moved
[[websocket.route]]
path     = '/kept/'
consumer = 'echo'
";
    assert_eq!(app.gateway().replace(table(new), Pace::AT_ONCE).await, 2);
    assert_eq!(
        changed.receive_close().await,
        (1012, "the route changed".to_owned())
    );
    assert_eq!(removed.receive_close().await.0, 1012);
    kept.send("still here").await;
    assert_eq!(kept.receive().await.as_text(), Some("still here"));
    assert_eq!(
        HttpCommunicator::get("/old/").send(&app).await.status(),
        404
    );
    assert_eq!(
        HttpCommunicator::get("/new/").send(&app).await.status(),
        200
    );
}

/// Case 52.
#[tokio::test]
async fn drain_closes_sockets_with_1001_and_refuses_new_connections() {
    let server = LiveServer::start("[server.timeouts]\ndrain = '2s'\n[server.drain]\nretry_after = '0s'\n[[websocket.route]]\npath = '/echo/'\nconsumer = 'echo'\n").await.unwrap();
    let address = server.address();
    let mut stream = crate::support::open(&server).await;
    let mut stopping = tokio::task::JoinSet::new();
    stopping.spawn(server.stop());
    let heard = crate::support::read_until(&mut stream, |read| read.len() >= 4).await;
    assert_eq!(heard[..4], [0x88, 29, 0x03, 0xE9]);
    stream
        .write_all(&crate::support::frame(0x88, &1001_u16.to_be_bytes()))
        .await
        .unwrap();
    let drained = stopping.join_next().await.unwrap().unwrap();
    assert_eq!((drained.sockets, drained.cut_off), (1, 0));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
