//! The written configuration: the TOML file, the files it includes, and all their errors.
//!
//! The first of three stages. It knows the file's structure, units, variables and includes, but not
//! which views, consumers and middleware exist: the gateway looks names up and adds its own
//! [`Problem`]s, so every route and section keeps its [`SourceLocation`].
//!
//! ```
//! use oneport::config::Config;
//!
//! let text = r#"
//!     [[websocket.route]]
//!     path = "/ws/chat/{room:slug}/"
//!     consumer = "chat"
//!     max_message = "16 KiB"
//! "#;
//! let (config, warnings) = Config::parse("oneport.toml", text, ".".as_ref(), &|_| None)?;
//! assert!(warnings.is_empty());
//! assert_eq!(config.websocket_routes[0].settings.max_message.bytes(), 16 * 1024);
//! # Ok::<(), oneport::config::Problems>(())
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

mod draft;
mod problems;
mod process_user;
mod read;
mod restart;
mod sections;
mod values;

#[cfg(test)]
mod tests;

pub(crate) use crate::net::url::hide_url;
pub use crate::net::{Bind, BindError, Listen, unix_path_problem};
pub use draft::Draft;
pub use problems::error_locations::ErrorLocations;
pub use problems::option_errors::{OptionError, OptionErrors};
pub use problems::problem::{Problem, Problems, Severity};
pub use problems::snippet::Snippet;
pub use problems::suggest::{did_you_mean, nearest};
pub(crate) use process_user::user as process_user;
pub use read::document::{Document, Position};
pub use read::environment::{Env, process_environment};
pub(crate) use read::include::reason;
pub use read::source_location::SourceLocation;
pub use restart::{KeyChange, TakesEffect};
pub use sections::acme::{AcmeChallenge, AcmeConfig, AcmeCurve, ExternalAccount, HmacKey};
pub use sections::auth::{
    AuthConfig, BearerConfig, ClaimValue, DjangoUsersConfig, ForwardConfig, IdType,
};
pub use sections::channel_layer::{Backend, ChannelLayerConfig, LayerFormat, Serializer};
pub use sections::compress::{CompressConfig, CompressionAlgorithm};
pub use sections::cors::CorsConfig;
pub use sections::csrf::CsrfConfig;
pub use sections::custom_middleware::CustomMiddlewareSections;
pub use sections::drain::DrainConfig;
pub use sections::headers::{HeaderFields, HeaderPreset};
pub use sections::http::{HttpDefaults, HttpRoute};
pub use sections::log::{AccessFields, LogConfig, LogFormat};
pub use sections::metrics::MetricsConfig;
pub use sections::options::Options;
pub use sections::rate_limit::{
    MessageLimit, OverLimit, RequestKey, RequestLimit, SocketKey, SocketRateLimit,
};
pub use sections::server::{ForwardedFamily, LimitsConfig, ServerConfig, TimeoutsConfig, Workers};
pub use sections::session::{DjangoSessionConfig, SameSite, Secure, SessionConfig};
pub use sections::settings::MissingOrigin;
pub use sections::templates::TemplatesConfig;
pub use sections::tls::{CertificateFiles, Plaintext, TlsConfig};
pub use sections::tracing::{TraceparentFrom, TracingConfig};
pub use sections::websocket::{Compression, SlowClient, WebsocketDefaults, WebsocketRoute};
pub use values::config_path::{ConfigPath, OptionalPath};
pub use values::config_url::ConfigUrl;
pub use values::not_compared::NotCompared;
pub use values::rate::{ByteRate, Rate};
pub use values::redis_url::{RedisHome, RedisUrl};
pub use values::secret::{Secret, hide_url_secrets};
pub use values::store_url::StoreUrl;
pub use values::time_zone::TimeZone;
pub(crate) use values::time_zone::{clock_seconds, shown_offset};
pub use values::units::{Size, UnitError, WrittenDuration};

use read::include::{self, Source};
use read::load::{self, Loader};

/// A whole configuration: the main file and everything it includes. The default is that of an empty
/// file.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[server]`.
    pub server: ServerConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[metrics]`.
    pub metrics: MetricsConfig,
    /// `[tracing]`.
    pub tracing: TracingConfig,
    /// `[templates]`.
    pub templates: TemplatesConfig,
    /// `[session]`.
    pub session: SessionConfig,
    /// `[auth]`.
    pub auth: AuthConfig,
    /// `[csrf]`.
    pub csrf: CsrfConfig,
    /// `[channel_layer]`.
    pub channel_layer: ChannelLayerConfig,
    /// `[middleware.NAME]`: options of an application's own middleware.
    pub middleware: CustomMiddlewareSections,
    /// `[http]`: the defaults of its routes.
    pub http: HttpDefaults,
    /// `[websocket]`: the defaults of its routes.
    pub websocket: WebsocketDefaults,
    /// Every `[[http.route]]`, in the order they are tried. Routes of an included file come before
    /// those of the file that includes it, because `include` precedes them.
    pub http_routes: Vec<HttpRoute>,
    /// Every `[[websocket.route]]`, in the order they are tried.
    pub websocket_routes: Vec<WebsocketRoute>,
    /// The files that were read, the main one first.
    pub documents: Vec<Arc<Document>>,
    /// The directory of the main file.
    pub base: PathBuf,
}

impl Config {
    /// Reads a file and everything it includes. Returns the configuration with its warnings, or
    /// else all problems including warnings.
    pub fn load(path: &Path, env: Env<'_>) -> Result<(Self, Problems), Problems> {
        Self::draft(path, env)?.finish()
    }

    /// Reads as much as possible of a file and everything it includes. Fails only if the main file
    /// cannot be read or is not TOML.
    pub fn draft(path: &Path, env: Env<'_>) -> Result<Draft, Problems> {
        let source = Source::new(path.display().to_string(), path.to_owned());
        let text = include::read(&source).map_err(|message| load::unreadable(path, message))?;
        Loader::new(env).load(&source, &text)
    }

    /// Parses `text` as if it were the file `name` in the directory `base`, from which includes and
    /// other relative paths resolve.
    pub fn parse(
        name: &str,
        text: &str,
        base: &Path,
        env: Env<'_>,
    ) -> Result<(Self, Problems), Problems> {
        Self::draft_of(name, text, base, env)?.finish()
    }

    /// Like [`draft`](Self::draft), for a text.
    pub fn draft_of(name: &str, text: &str, base: &Path, env: Env<'_>) -> Result<Draft, Problems> {
        let file_name = Path::new(name).file_name().unwrap_or(name.as_ref());
        let source = Source::new(name.to_owned(), base.join(file_name));
        Loader::new(env).load(&source, text)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: ServerConfig::default(),
            log: LogConfig::default(),
            metrics: MetricsConfig::default(),
            tracing: TracingConfig::default(),
            templates: TemplatesConfig::default(),
            session: SessionConfig::default(),
            auth: AuthConfig::default(),
            csrf: CsrfConfig::default(),
            channel_layer: ChannelLayerConfig::default(),
            middleware: CustomMiddlewareSections::default(),
            http: HttpDefaults::default(),
            websocket: WebsocketDefaults::default(),
            http_routes: Vec::new(),
            websocket_routes: Vec::new(),
            documents: Vec::new(),
            base: PathBuf::from("."),
        }
    }
}
