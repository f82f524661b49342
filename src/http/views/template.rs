//! Template: renders a page.

use http::{HeaderValue, header};
use serde_json::{Map, Value as Json};

use crate::config::OptionErrors;
use crate::http::page::render;
use crate::http::{Failure, OnDisconnect, Request, Response, View, respond};

/// `view = "template"`: renders a page.
#[derive(Debug)]
pub struct Template {
    options: Options,
    content_type: &'static str,
}

/// The options of `template`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The file name, relative to the directory of templates.
    template: String,
    /// Further variables.
    #[serde(default)]
    context: Map<String, Json>,
}

impl View for Template {
    type Options = Options;

    fn new(options: Options) -> Result<Self, OptionErrors> {
        let content_type = match options
            .template
            .rsplit_once('.')
            .map(|(_, extension)| extension)
        {
            Some("html" | "htm") => "text/html; charset=utf-8",
            Some("xml") => "application/xml; charset=utf-8",
            Some("json") => "application/json",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            _ => "text/plain; charset=utf-8",
        };
        Ok(Self {
            options,
            content_type,
        })
    }

    fn templates(&self) -> Vec<String> {
        vec![self.options.template.clone()]
    }

    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Cancel
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let (page, fields) = render(
            &request.services.templates.load(),
            &request.services,
            &request.scope,
            &self.options.template,
            &self.options.context,
        )?;
        let mut response = respond(200, self.content_type, page);
        response.headers_mut().extend(fields);
        // A browser must not show a user's page again after logout.
        let cache = match request.scope.user {
            Some(_) => "no-store",
            None => "no-cache",
        };
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
        Ok(response)
    }
}
