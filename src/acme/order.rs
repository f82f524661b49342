//! Order: obtains one certificate from a CA (RFC 8555 §7.1).
//!
//! ```text
//! account ── stored, or a new one
//!    ▼
//! order ── a domain that is still authorized ───────────────┐
//!    ▼                                                      │
//! challenge ── its answer is published ── the CA checks it  │
//!    ▼                                                      ▼
//! finalize with a new key ── the CA issues ── the chain is downloaded
//! ```

use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Error,
    Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384,
};

use super::authority::{Authority, ChallengeKind, Issued, OrderError, OrderRequest, RenewalWindow};
use super::cache::ChallengeFile;
use super::challenges::Published;
use super::directory::{Directory, call, failed, is_unknown_account, problem_type};
use super::http_client::HttpClient;
use crate::config::AcmeCurve;

/// How long the CA may check a challenge, or issue a certificate.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// How long the processes that share the cache have to see a challenge.
const SETTLE: Duration = Duration::from_secs(2);

impl Directory {
    /// Returns the account and a new order. A CA that has lost the stored account gets a new one.
    async fn new_order(
        &self,
        client: &HttpClient,
        request: &OrderRequest,
    ) -> Result<Order, OrderError> {
        let identifiers = [Identifier::Dns(request.domain.clone())];
        let cannot = |error: &Error| failed("the CA refuses the order", error, client);
        if let Some(account) = self.stored_account(client).await? {
            let replaces = request.replaces.as_deref().and_then(replaced);
            let mut ordered = self.order_of(&account, &identifiers, replaces).await;
            if let Err(error) = &ordered
                && request.replaces.is_some()
                && is_about_replaced(error)
            {
                tracing::debug!(%error, "ordering without the certificate that it replaces");
                ordered = self.order_of(&account, &identifiers, None).await;
            }
            match ordered {
                Err(error) if is_unknown_account(&error) => {
                    tracing::warn!(%error, "the CA does not know the ACME account; creating a new one");
                }
                ordered => return ordered.map_err(|error| cannot(&error)),
            }
        }
        let account = self.new_account(client).await?;
        let ordered = self.order_of(&account, &identifiers, None).await;
        ordered.map_err(|error| cannot(&error))
    }

    async fn order_of(
        &self,
        account: &Account,
        identifiers: &[Identifier],
        replaces: Option<CertificateIdentifier<'static>>,
    ) -> Result<Order, Error> {
        let mut order = NewOrder::new(identifiers);
        if let Some(replaces) = replaces {
            order = order.replaces(replaces);
        }
        if !self.profile.is_empty() {
            order = order.profile(&self.profile);
        }
        call!(account.new_order(&order))
    }

    /// Publishes the answers to the order's challenges and tells the CA. Returns them, and their
    /// kind; none if the domain is still authorized.
    async fn answer_challenges(
        &self,
        client: &HttpClient,
        order: &mut Order,
        request: &OrderRequest,
    ) -> Result<Vec<Published>, OrderError> {
        call!(load_authorizations(order))
            .map_err(|error| failed("cannot read an authorization", &error, client))?;
        let mut published = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                status => {
                    return Err(OrderError::new(format!(
                        "expected a pending authorization, found one that is {status:?}"
                    )));
                }
            }
            let offers = |kind: ChallengeKind| {
                let mut challenges = authorization.challenges.iter();
                challenges.any(|challenge| challenge.r#type == challenge_type(kind))
            };
            let Some(kind) = request.kinds.iter().copied().find(|kind| offers(*kind)) else {
                let offered = &authorization.challenges;
                let offered: Vec<String> = offered
                    .iter()
                    .map(|challenge| format!("{:?}", challenge.r#type))
                    .collect();
                return Err(OrderError::new(format!(
                    "expected the challenge {}, found {}",
                    request
                        .kinds
                        .iter()
                        .map(|kind| kind.as_str())
                        .collect::<Vec<_>>()
                        .join(" or "),
                    offered.join(", ")
                )));
            };
            let Some(mut challenge) = authorization.challenge(challenge_type(kind)) else {
                continue;
            };
            let answer = challenge.key_authorization();
            let file = match kind {
                ChallengeKind::Http01 => ChallengeFile::Http {
                    token: challenge.token.clone(),
                    answer: answer.as_str().to_owned(),
                },
                ChallengeKind::TlsAlpn01 => ChallengeFile::Alpn {
                    domain: request.domain.clone(),
                    pem: challenge_certificate(&request.domain, answer.digest().as_ref())
                        .map_err(|error| OrderError::new(error.to_string()))?,
                },
            };
            let answered = self.responder.publish(&self.cache, file).await;
            published.push(answered.map_err(|why| OrderError::new(why).of_challenge(kind))?);
            tokio::time::sleep(SETTLE).await;
            call!(challenge.set_ready()).map_err(|error| {
                failed("the challenge failed", &error, client).of_challenge(kind)
            })?;
        }
        Ok(published)
    }

    /// Waits until the CA has checked the challenges.
    async fn wait_until_ready(
        &self,
        client: &HttpClient,
        order: &mut Order,
    ) -> Result<(), OrderError> {
        let checked = call!(order.poll_ready(&POLL));
        if matches!(checked, Ok(OrderStatus::Ready)) {
            return Ok(());
        }
        // The order says that it failed; its challenges say why.
        let mut reasons = Vec::new();
        let mut kind = None;
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            if call!(async { authorization.refresh().await.map(|_| ()) }).is_err() {
                break;
            }
            for challenge in &authorization.challenges {
                if challenge.status == ChallengeStatus::Invalid || challenge.error.is_some() {
                    kind = kind.or(kind_of(&challenge.r#type));
                    let why = challenge.error.as_ref().map(ToString::to_string);
                    reasons.push(why.unwrap_or_else(|| "no reason given".to_owned()));
                }
            }
        }
        let why = match (&checked, reasons.is_empty()) {
            (Err(error), true) => error.to_string(),
            (Ok(status), true) => format!("the order is {status:?}"),
            (_, false) => reasons.join("; "),
        };
        let mut error = OrderError::new(format!("the challenge failed: {why}"));
        error.retry_after = client.take_asked();
        error.kind = kind;
        Err(error)
    }
}

impl Authority for Directory {
    async fn order(&self, request: OrderRequest) -> Result<Issued, OrderError> {
        let client = self.client();
        let mut order = self.new_order(&client, &request).await?;
        let published = self
            .answer_challenges(&client, &mut order, &request)
            .await?;
        if order.state().status == OrderStatus::Pending {
            self.wait_until_ready(&client, &mut order).await?;
        }
        drop(published);
        let key = KeyPair::generate_for(match self.curve {
            AcmeCurve::P256 => &PKCS_ECDSA_P256_SHA256,
            AcmeCurve::P384 => &PKCS_ECDSA_P384_SHA384,
        });
        let key = key.map_err(|error| OrderError::new(error.to_string()))?;
        let csr = signing_request(&request.domain, &key);
        let csr = csr.map_err(|error| OrderError::new(error.to_string()))?;
        call!(order.finalize_csr(&csr))
            .map_err(|error| failed("the CA refuses to issue", &error, &client))?;
        let chain = call!(order.poll_certificate(&POLL))
            .map_err(|error| failed("the CA does not issue", &error, &client))?;
        Ok(Issued {
            pem: format!("{}{chain}", key.serialize_pem()),
        })
    }

    async fn renewal_window(&self, chain: &[u8]) -> Result<Option<RenewalWindow>, OrderError> {
        let Some(id) = replaced(chain) else {
            return Ok(None);
        };
        let client = self.client();
        let Some(account) = self.stored_account(&client).await? else {
            return Ok(None);
        };
        match call!(account.renewal_info(&id)) {
            Ok((info, again_after)) => Ok(Some(RenewalWindow {
                window: SystemTime::from(info.suggested_window.start)
                    ..SystemTime::from(info.suggested_window.end),
                again_after,
            })),
            Err(Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(failed(
                "cannot read the renewal information",
                &error,
                &client,
            )),
        }
    }
}

/// Reads the authorizations of an order, which then has them.
async fn load_authorizations(order: &mut Order) -> Result<(), Error> {
    let mut identifiers = order.identifiers();
    while let Some(identifier) = identifiers.next().await {
        identifier?;
    }
    Ok(())
}

/// Returns the identifier of a certificate (RFC 9773 §4.1).
fn replaced(chain: &[u8]) -> Option<CertificateIdentifier<'static>> {
    let der = crate::net::first_certificate(chain)?;
    CertificateIdentifier::try_from(&der)
        .ok()
        .map(CertificateIdentifier::into_owned)
}

fn challenge_type(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

fn kind_of(found: &ChallengeType) -> Option<ChallengeKind> {
    match found {
        ChallengeType::Http01 => Some(ChallengeKind::Http01),
        ChallengeType::TlsAlpn01 => Some(ChallengeKind::TlsAlpn01),
        _ => None,
    }
}

/// Returns whether an order may succeed that does not name the certificate it replaces: the CA does
/// not know that certificate, has replaced it already, or does not support the field (RFC 9773 §5).
fn is_about_replaced(error: &Error) -> bool {
    matches!(error, Error::Unsupported(_) | Error::Other(_))
        || matches!(problem_type(error), Some("alreadyReplaced" | "malformed"))
}

/// Returns a request for a certificate in DER.
fn signing_request(domain: &str, key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::new([domain.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// Returns the key and the certificate that answer a tls-alpn-01 challenge (RFC 8737 §3), in PEM.
fn challenge_certificate(domain: &str, digest: &[u8]) -> Result<String, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([domain.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}
