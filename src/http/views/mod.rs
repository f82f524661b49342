//! Views: the built-in ones, by the names they have in the file.

mod events;
mod health;
mod metrics;
mod redirect;
mod respond;
mod static_files;
mod template;

pub use events::Events;
pub use health::Health;
pub use metrics::Metrics;
pub use redirect::Redirect;
pub use respond::Respond;
pub use static_files::Static;
pub use template::Template;
