//! Directory: a CA, as the client of its directory, and the account there.

use std::path::PathBuf;

use instant_acme::{Account, AccountCredentials, Error, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::authority::OrderError;
use super::cache::Cache;
use super::challenges::Responder;
use super::http_client::HttpClient;
use crate::config::{AcmeConfig, AcmeCurve};

/// How often a request is repeated whose nonce the CA rejects. The client library repeats each of
/// these three times as well.
pub(super) const NONCE_ATTEMPTS_MAX: usize = 10;

/// A CA, as the client of its directory.
pub(super) struct Directory {
    url: String,
    contact: String,
    pub(super) profile: String,
    pub(super) curve: AcmeCurve,
    external_account: Option<(String, Vec<u8>)>,
    ca: Option<PathBuf>,
    pub(super) cache: Cache,
    pub(super) responder: Responder,
}

/// The account, as a file.
#[derive(Deserialize, Serialize)]
struct StoredAccount {
    contact: String,
    /// [`AccountCredentials`].
    credentials: serde_json::Value,
}

/// Calls the CA; a rejected nonce is no answer (RFC 8555 §6.5).
macro_rules! call {
    ($call:expr) => {{
        let mut attempts = 0;
        loop {
            match $call.await {
                Err(error)
                    if $crate::acme::directory::is_bad_nonce(&error)
                        && attempts < $crate::acme::directory::NONCE_ATTEMPTS_MAX =>
                {
                    attempts += 1
                }
                other => break other,
            }
        }
    }};
}

pub(super) use call;

impl Directory {
    pub(super) fn new(config: &AcmeConfig, cache: Cache, responder: Responder) -> Self {
        Self {
            url: config.directory.clone(),
            contact: config.contact.clone(),
            profile: config.profile.clone(),
            curve: config.curve,
            external_account: config
                .external_account
                .as_ref()
                .map(|account| (account.key_id.clone(), account.hmac_key.bytes().to_vec())),
            ca: config.ca.clone().map(Into::into),
            cache,
            responder,
        }
    }

    pub(super) fn client(&self) -> HttpClient {
        HttpClient::new(self.ca.clone())
    }

    /// Returns the stored account, if there is one.
    pub(super) async fn stored_account(
        &self,
        client: &HttpClient,
    ) -> Result<Option<Account>, OrderError> {
        let cache = self.cache.clone();
        let read = spawn_blocking(move || cache.account()).await;
        let text = match read {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => return Err(self.cannot("read", &error)),
            Err(error) => return Err(OrderError::new(error.to_string())),
        };
        let Some(text) = text else { return Ok(None) };
        let parsed = serde_json::from_str::<StoredAccount>(&text);
        let parsed = parsed.and_then(|stored| {
            let credentials = AccountCredentials::deserialize(&stored.credentials)?;
            Ok((stored, credentials))
        });
        let (stored, credentials) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                let file = self.cache.path().join("account.json");
                tracing::warn!(file = %file.display(), %error, "expected an ACME account, found another text; creating a new account");
                return Ok(None);
            }
        };
        let account = Account::builder_with_http(Box::new(client.clone()))
            .from_credentials(credentials)
            .await
            .map_err(|error| failed("cannot read the directory", &error, client))?;
        if stored.contact != self.contact {
            let contacts = contacts(&self.contact);
            match call!(account.update_contacts(&contacts)) {
                Ok(()) => self.store_account(stored.credentials).await?,
                Err(error) => {
                    tracing::warn!(%error, "cannot change the contact of the ACME account");
                }
            }
        }
        Ok(Some(account))
    }

    pub(super) async fn new_account(&self, client: &HttpClient) -> Result<Account, OrderError> {
        let contacts = contacts(&self.contact);
        let new = NewAccount {
            contact: &contacts,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let external = self
            .external_account
            .as_ref()
            .map(|(id, key)| ExternalAccountKey::new(id.clone(), key));
        let created = call!(Account::builder_with_http(Box::new(client.clone())).create(
            &new,
            self.url.clone(),
            external.as_ref()
        ));
        let (account, credentials) =
            created.map_err(|error| failed("cannot create an account", &error, client))?;
        let credentials = serde_json::to_value(&credentials)
            .map_err(|error| OrderError::new(error.to_string()))?;
        // Stored before it is used: an account per attempt runs into the CA's limits.
        self.store_account(credentials).await?;
        tracing::info!(directory = %self.url, account = account.id(), "created an ACME account");
        Ok(account)
    }

    async fn store_account(&self, credentials: serde_json::Value) -> Result<(), OrderError> {
        let stored = StoredAccount {
            contact: self.contact.clone(),
            credentials,
        };
        let text =
            serde_json::to_string(&stored).map_err(|error| OrderError::new(error.to_string()))?;
        let cache = self.cache.clone();
        match spawn_blocking(move || cache.store_account(&text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.cannot("write", &error)),
            Err(error) => Err(OrderError::new(error.to_string())),
        }
    }

    fn cannot(&self, verb: &str, error: &std::io::Error) -> OrderError {
        OrderError::new(format!(
            "cannot {verb} {}: {error}",
            self.cache.path().display()
        ))
    }
}

fn contacts(contact: &str) -> Vec<&str> {
    Some(contact)
        .filter(|contact| !contact.is_empty())
        .into_iter()
        .collect()
}

pub(super) fn failed(what: &str, error: &Error, client: &HttpClient) -> OrderError {
    let mut failed = OrderError::new(format!("{what}: {error}"));
    failed.retry_after = client.take_asked();
    failed
}

pub(super) fn problem_type(error: &Error) -> Option<&str> {
    match error {
        Error::Api(problem) => problem
            .r#type
            .as_deref()?
            .strip_prefix("urn:ietf:params:acme:error:"),
        _ => None,
    }
}

pub(super) fn is_bad_nonce(error: &Error) -> bool {
    problem_type(error) == Some("badNonce")
}

pub(super) fn is_unknown_account(error: &Error) -> bool {
    problem_type(error) == Some("accountDoesNotExist")
}
