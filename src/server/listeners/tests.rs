//! Listeners that letters serve.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::net::{ClientLimit, Connection, ConnectionPermit};

/// Sends its letter for each byte that it receives.
struct Letter(u8);

impl Serve for Letter {
    const OVERLOADED: &'static [u8] = b"";

    fn speaks_tls(&self) -> bool {
        false
    }

    fn counted_ip(&self, _: Option<SocketAddr>) -> Option<IpAddr> {
        None
    }

    async fn serve(self: Arc<Self>, mut connection: Connection, _: ConnectionPermit) {
        while let Ok(1) = connection.stream.read(&mut [0]).await {
            if connection.stream.write_all(&[self.0]).await.is_err() {
                return;
            }
        }
    }
}

/// A new directory, removed at the end of its test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("oneport-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn listeners() -> Listeners<Letter> {
    let admission = Admission::new(1_000, ClientLimit::new(1_000));
    Listeners::new(admission, Tasks::default())
}

fn letter(letter: u8) -> impl Fn(&Listen, &Listener) -> Arc<Letter> {
    move |_, _| Arc::new(Letter(letter))
}

fn at(address: &impl ToString) -> Listen {
    address.to_string().parse::<Bind>().unwrap().into()
}

fn unix(path: &Path) -> Listen {
    Bind::Unix(path.to_owned()).into()
}

async fn open(wanted: &[Listen], open: &[Bind]) -> Result<Opened, OpenError> {
    Opened::open(missing(wanted, open), Vec::new()).await
}

/// Listens at exactly these entries, all served by one letter. Returns their addresses.
async fn serve(
    listeners: &mut Listeners<Letter>,
    wanted: &[Listen],
    name: u8,
) -> Vec<Option<SocketAddr>> {
    let opened = open(wanted, &listeners.addresses()).await.unwrap();
    listeners.apply(wanted, opened, letter(name)).finish().await;
    let entries = listeners.open.iter();
    entries
        .flat_map(|entry| entry.listeners.iter().map(|listener| listener.address()))
        .collect()
}

async fn ask(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> Option<u8> {
    stream.write_all(b"?").await.ok()?;
    stream.read_u8().await.ok()
}

/// Two ports that were free a moment ago.
fn free_ports() -> [SocketAddr; 2] {
    [(), ()]
        .map(|()| TcpListener::bind("127.0.0.1:0").unwrap())
        .map(|listener| listener.local_addr().unwrap())
}

#[tokio::test]
async fn one_entry_that_cannot_be_opened_opens_none() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let [free, _] = free_ports();
    let wanted = [at(&free), at(&taken.local_addr().unwrap())];
    let error = open(&wanted, &[]).await.unwrap_err();
    assert_eq!(
        (error.index, error.cause.kind()),
        (1, io::ErrorKind::AddrInUse)
    );
    assert_eq!(error.bind, wanted[1].address);
    TcpListener::bind(free).unwrap();
}

#[tokio::test]
async fn closing_a_listener_keeps_its_connections() {
    let mut listeners = listeners();
    let [kept, closed] = free_ports();
    serve(&mut listeners, &[at(&kept), at(&closed)], b'a').await;
    let mut before = TcpStream::connect(closed).await.unwrap();
    assert_eq!(ask(&mut before).await, Some(b'a'));
    serve(&mut listeners, &[at(&kept)], b'b').await;
    assert!(TcpStream::connect(closed).await.is_err());
    TcpListener::bind(closed).unwrap();
    assert_eq!(ask(&mut before).await, Some(b'a'));
    let mut other = TcpStream::connect(kept).await.unwrap();
    assert_eq!(ask(&mut other).await, Some(b'b'));
}

#[tokio::test]
async fn listener_that_stays_serves_new_connections_by_the_new_service() {
    let mut listeners = listeners();
    let wanted = [at(&"127.0.0.1:0")];
    let first = serve(&mut listeners, &wanted, b'a').await;
    let mut old = TcpStream::connect(first[0].unwrap()).await.unwrap();
    assert_eq!(ask(&mut old).await, Some(b'a'));
    assert_eq!(serve(&mut listeners, &wanted, b'b').await, first);
    let mut new = TcpStream::connect(first[0].unwrap()).await.unwrap();
    assert_eq!(ask(&mut new).await, Some(b'b'));
    assert_eq!(ask(&mut old).await, Some(b'a'));
}

#[tokio::test]
async fn connections_that_have_arrived_are_served_by_a_listener_that_closes() {
    let mut listeners = listeners();
    let [address, _] = free_ports();
    serve(&mut listeners, &[at(&address)], b'a').await;
    // The runtime has one thread, so nothing is accepted in between.
    let arrived: Vec<_> = (0..200)
        .map(|_| std::net::TcpStream::connect(address).unwrap())
        .collect();
    serve(&mut listeners, &[], b'b').await;
    for stream in arrived {
        stream.set_nonblocking(true).unwrap();
        let mut stream = TcpStream::from_std(stream).unwrap();
        assert_eq!(ask(&mut stream).await, Some(b'a'));
    }
}

#[tokio::test]
async fn listeners_of_one_address_are_counted() {
    let mut listeners = listeners();
    let any = at(&"127.0.0.1:0");
    let two = serve(&mut listeners, &[any.clone(), any.clone()], b'a').await;
    assert_ne!(two[0], two[1]);
    let three = serve(
        &mut listeners,
        &[any.clone(), any.clone(), any.clone()],
        b'a',
    )
    .await;
    assert!(two.iter().all(|address| three.contains(address)));
    assert_eq!(serve(&mut listeners, &[any], b'a').await.len(), 1);
}

#[tokio::test]
async fn handed_over_listeners_are_taken_by_their_addresses() {
    let directory = Directory::new();
    let path = directory.0.join("one.sock");
    let mut old = listeners();
    let wanted = [at(&"127.0.0.1:0"), unix(&path)];
    let address = serve(&mut old, &wanted, b'a').await[0].unwrap();
    let mut inherited = old.inheritable().unwrap();
    inherited.reverse();
    let opened = Opened::open(missing(&wanted, &[]), inherited)
        .await
        .unwrap();
    let mut new = listeners();
    new.apply(&wanted, opened, letter(b'b')).finish().await;
    let arrived = std::net::TcpStream::connect(address).unwrap();
    let taken: Vec<Bind> = wanted.iter().map(|entry| entry.address.clone()).collect();
    old.hand_over(&taken).await;
    assert!(path.exists(), "the file is the new process's");
    arrived.set_nonblocking(true).unwrap();
    let mut stream = TcpStream::from_std(arrived).unwrap();
    let first = ask(&mut stream).await;
    assert!(first.is_some(), "neither process has served the connection");
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut stream).await, Some(b'b'));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut stream).await, Some(b'b'));
    new.take_over();
    new.close().finish().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn process_that_does_not_take_over_leaves_the_file_of_a_unix_socket() {
    let directory = Directory::new();
    let path = directory.0.join("one.sock");
    let mut old = listeners();
    let wanted = [unix(&path)];
    serve(&mut old, &wanted, b'a').await;
    let inherited = old.inheritable().unwrap();
    let opened = Opened::open(missing(&wanted, &[]), inherited)
        .await
        .unwrap();
    drop(opened);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut stream).await, Some(b'a'));
}

#[tokio::test]
async fn file_of_an_inherited_socket_that_is_gone_is_made_anew_and_anothers_is_left_alone() {
    let directory = Directory::new();
    let path = directory.0.join("one.sock");
    let mut old = listeners();
    let wanted = [unix(&path)];
    serve(&mut old, &wanted, b'a').await;
    for is_there in [true, false] {
        std::fs::remove_file(&path).unwrap();
        let other = is_there.then(|| std::os::unix::net::UnixListener::bind(&path).unwrap());
        let inherited = old.inheritable().unwrap();
        let opened = Opened::open(missing(&wanted, &[]), inherited)
            .await
            .unwrap();
        let mut new = listeners();
        new.apply(&wanted, opened, letter(b'b')).finish().await;
        new.take_over();
        if !is_there {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            assert_eq!(ask(&mut stream).await, Some(b'b'));
        }
        new.close().finish().await;
        assert_eq!(path.exists(), is_there);
        drop(other);
    }
}

#[tokio::test]
async fn inherited_listener_that_is_not_wanted_is_closed() {
    let mut old = listeners();
    let directory = Directory::new();
    let path = directory.0.join("one.sock");
    let address = serve(&mut old, &[at(&"127.0.0.1:0"), unix(&path)], b'a').await[0].unwrap();
    let inherited = old.inheritable().unwrap();
    old.hand_over(&[]).await;
    assert!(!path.exists());
    let opened = Opened::open(Vec::new(), inherited).await.unwrap();
    assert_eq!(opened.iter().count(), 0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn permissions_of_a_unix_socket_follow_its_entry_all_or_none() {
    let directory = Directory::new();
    let mut listeners = listeners();
    let entry = |name: &str, mode| Listen {
        mode: Some(mode),
        ..unix(&directory.0.join(name))
    };
    let mode = |name: &str| mode_of(&directory.0.join(name));
    let before = [entry("a", 0o600), entry("b", 0o600)];
    serve(&mut listeners, &before, b'a').await;
    let no_group = Listen {
        group: Some("no such group".to_owned()),
        ..entry("b", 0o666)
    };
    let error = listeners
        .set_access(&[entry("a", 0o666), no_group])
        .unwrap_err();
    assert_eq!(error.index, 1);
    assert_eq!((mode("a"), mode("b")), (0o600, 0o600));
    let wanted = [entry("a", 0o660), entry("b", 0o600)];
    let changes = listeners.set_access(&wanted).unwrap();
    assert_eq!((mode("a"), mode("b")), (0o660, 0o600));
    drop(changes); // it is not applied after all
    assert_eq!((mode("a"), mode("b")), (0o600, 0o600));
    for change in listeners.set_access(&wanted).unwrap() {
        change.keep();
    }
    assert_eq!((mode("a"), mode("b")), (0o660, 0o600));
}

fn mode_of(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().unwrap().permissions().mode() & 0o777
}

/// The entry before says nothing of permissions, so they are those that the file had.
#[tokio::test]
async fn permissions_that_no_entry_had_set_are_restored_and_anothers_file_is_left_alone() {
    let directory = Directory::new();
    let path = directory.0.join("one.sock");
    let mut listeners = listeners();
    serve(&mut listeners, &[unix(&path)], b'a').await;
    let before = mode_of(&path);
    let wanted = [Listen {
        mode: Some(0o666),
        ..unix(&path)
    }];
    assert_ne!(before, 0o666);
    let changes = listeners.set_access(&wanted).unwrap();
    assert_eq!(mode_of(&path), 0o666);
    drop(changes);
    assert_eq!(mode_of(&path), before);
    std::fs::remove_file(&path).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let before = mode_of(&path);
    assert!(listeners.set_access(&wanted).unwrap().is_empty());
    assert_eq!(mode_of(&path), before);
}

#[tokio::test]
async fn options_of_an_inherited_listener_change_when_it_is_taken_over() {
    let directory = Directory::new();
    let path = directory.0.join("one.sock");
    let entry = |mode| Listen {
        mode: Some(mode),
        ..unix(&path)
    };
    let mut old = listeners();
    serve(&mut old, &[entry(0o600)], b'a').await;
    let wanted = [entry(0o660)];
    for takes_over in [false, true] {
        let inherited = old.inheritable().unwrap();
        let opened = Opened::open(missing(&wanted, &[]), inherited)
            .await
            .unwrap();
        let mut new = listeners();
        new.apply(&wanted, opened, letter(b'b')).finish().await;
        assert_eq!(mode_of(&path), 0o600);
        if takes_over {
            new.take_over();
            assert_eq!(mode_of(&path), 0o660);
        }
    }
}
