//! In memory: unix sockets of this thread that exist only in memory. Only in tests.

use std::cell::RefCell;
use std::io;
use std::path::Path;

use super::Stream;

/// Opens a stream to a path; `None` if the path is one of the file system's.
type Connector = Box<dyn Fn(&Path) -> Option<io::Result<Stream>>>;

thread_local! {
    static CONNECTOR: RefCell<Option<Connector>> = const { RefCell::new(None) };
}

/// Sets what opens the streams of this thread, or nothing.
pub(crate) fn set_connector(connector: Option<Connector>) {
    CONNECTOR.with(|slot| *slot.borrow_mut() = connector);
}

pub(super) fn connect(path: &Path) -> Option<io::Result<Stream>> {
    CONNECTOR.with(|slot| slot.borrow().as_ref()?(path))
}
