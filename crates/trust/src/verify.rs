//! Certificate checks that ask one question: is this the key that was pinned?
//!
//! Names, dates and issuers in a certificate mean nothing here; anyone can write them. Its
//! signature over the handshake proves that the peer holds the key (RFC 8446, 4.4.3); checking that
//! is left to rustls and its cryptography provider.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::{admission::Admission, fingerprint::Fingerprint, tls};

/// The client's check: the server has the pinned key.
#[derive(Debug)]
pub(crate) struct PinnedServer {
    expected: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The server's check: the admission lets the client in.
#[derive(Debug)]
pub(crate) struct AdmittedClient {
    admission: Admission,
    algorithms: WebPkiSupportedAlgorithms,
}

/// A server showed another key than the pinned one.
#[derive(Debug, thiserror::Error)]
#[error("the server has the key {actual}")]
pub(crate) struct UnexpectedKey {
    pub(crate) actual: Fingerprint,
}

/// A client showed a key that is not let in.
#[derive(Debug, thiserror::Error)]
#[error("the client has the unknown key {actual}")]
pub(crate) struct UnknownKey {
    pub(crate) actual: Fingerprint,
}

impl PinnedServer {
    pub(crate) fn new(expected: Fingerprint) -> Self {
        Self {
            expected,
            algorithms: tls::provider().signature_verification_algorithms,
        }
    }
}

impl AdmittedClient {
    pub(crate) fn new(admission: Admission) -> Self {
        Self {
            admission,
            algorithms: tls::provider().signature_verification_algorithms,
        }
    }
}

/// Sent to the other side as the alert `certificate_unknown`.
fn refused(reason: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(reason))).into()
}

/// TLS 1.2 is not offered, so this is never called; if it were, the answer is no.
fn refuse_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let actual = Fingerprint::of(end_entity)?;
        if actual == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refused(UnexpectedKey { actual }))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for AdmittedClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let actual = Fingerprint::of(end_entity)?;
        match self.admission.admit(actual) {
            Ok(Some(_)) => Ok(ClientCertVerified::assertion()),
            Ok(None) => Err(refused(UnknownKey { actual })),
            // Not the client's fault, so it is not reported as an error in its certificate.
            Err(error) => Err(rustls::Error::Other(OtherError(Arc::new(error)))),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
