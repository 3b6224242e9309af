//! Answers who asks for the metrics, over HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use trust::Peers;

use super::Metrics;

/// Most that are answered at a time; others wait.
const MOST: usize = 4;

/// How long one may take to ask and to read the answer.
const LIMIT: Duration = Duration::from_secs(10);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Who may ask.
#[derive(Debug)]
pub enum Access {
    /// Any process of this host.
    Local,
    /// Whoever knows the token with this hash. Hashes are compared in constant time.
    Token(blake3::Hash),
}

impl Access {
    /// Who may ask at this address.
    ///
    /// # Errors
    /// If others than this host's processes could, without a token; if the token cannot be read.
    pub fn at(address: SocketAddr, token_file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = token_file else {
            anyhow::ensure!(
                address.ip().to_canonical().is_loopback(),
                "everybody who reaches {address} could read the metrics: use an address of this host alone, such as \
                 127.0.0.1, or say with --metrics-token-file which token they must know"
            );
            return Ok(Access::Local);
        };
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let token = text.trim();
        anyhow::ensure!(!token.is_empty(), "{} is empty", path.display());
        Ok(Access::Token(blake3::hash(token.as_bytes())))
    }

    fn allows(&self, request: &Request<Incoming>) -> bool {
        let Access::Token(expected) = self else {
            return true;
        };
        let header = request.headers().get(AUTHORIZATION);
        let said = header.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        said.is_some_and(|token| blake3::hash(token) == *expected)
    }
}

/// What it takes to answer.
pub(crate) struct Endpoint {
    pub(crate) access: Access,
    pub(crate) metrics: Metrics,
    pub(crate) peers: Peers,
}

impl Endpoint {
    /// Answers until the future is dropped.
    pub(crate) async fn serve(self, listener: TcpListener) -> Infallible {
        let (endpoint, places) = (Arc::new(self), Arc::new(Semaphore::new(MOST)));
        loop {
            let place = places.clone().acquire_owned().await;
            match listener.accept().await {
                Ok((stream, _)) => {
                    let endpoint = endpoint.clone();
                    tokio::spawn(async move {
                        let _place = place;
                        let answered = endpoint.converse(stream);
                        let _ = tokio::time::timeout(LIMIT, answered).await;
                    });
                }
                Err(error) => {
                    tracing::warn!("metrics: accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn converse(self: Arc<Self>, stream: TcpStream) {
        let answer = service_fn(|request| {
            let endpoint = self.clone();
            async move { Ok::<_, Infallible>(endpoint.answer(&request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(stream), answer)
            .await;
        if let Err(error) = served {
            tracing::debug!("metrics: {error}");
        }
    }

    async fn answer(self: Arc<Self>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let short = |status: StatusCode| {
            let text = status.canonical_reason().unwrap_or_default();
            let mut response = Response::new(Full::from(format!("{text}\n")));
            *response.status_mut() = status;
            response
        };
        let with = |mut response: Response<Full<Bytes>>, name, value: &'static str| {
            let value = hyper::header::HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
            response
        };
        if !self.access.allows(request) {
            return with(short(StatusCode::UNAUTHORIZED), WWW_AUTHENTICATE, "Bearer");
        }
        if request.uri().path() != "/metrics" {
            return short(StatusCode::NOT_FOUND);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return with(short(StatusCode::METHOD_NOT_ALLOWED), ALLOW, "GET, HEAD");
        }
        match spawn_blocking(move || self.metrics.text(&self.peers)).await {
            Ok(Ok(text)) => with(Response::new(Full::from(text)), CONTENT_TYPE, OPENMETRICS),
            _ => short(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn strangers_need_a_token() {
        let at = |address: &str, token: Option<&Path>| Access::at(address.parse().unwrap(), token);
        for own in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            assert!(matches!(at(own, None), Ok(Access::Local)), "{own}");
        }
        for open in ["0.0.0.0:9", "[::]:9", "192.0.2.1:9"] {
            let why = at(open, None).expect_err("refused").to_string();
            assert!(why.contains("--metrics-token-file"), "{why}");
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        assert!(at("[::]:9", Some(file.path())).is_err(), "it is empty");
        file.write_all(b"a secret\n").unwrap();
        assert!(matches!(
            at("[::]:9", Some(file.path())),
            Ok(Access::Token(_))
        ));
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request}\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn it_answers_who_knows_the_token_and_what_it_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint {
            access: Access::Token(blake3::hash(b"a secret")),
            metrics: Metrics::default(),
            peers: Peers::open(dir.path()).unwrap(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(endpoint.serve(listener));
        let knows = "Authorization: Bearer a secret";
        for (request, status) in [
            ("GET /metrics HTTP/1.1".to_owned(), "401 "),
            (
                "GET /metrics HTTP/1.1\r\nAuthorization: Bearer a secre".to_owned(),
                "401 ",
            ),
            (
                "GET /metrics HTTP/1.1\r\nAuthorization: Basic a secret".to_owned(),
                "401 ",
            ),
            (format!("GET /metrics HTTP/1.1\r\n{knows}"), "200 OK"),
            (format!("GET /other HTTP/1.1\r\n{knows}"), "404 "),
            (format!("POST /metrics HTTP/1.1\r\n{knows}"), "405 "),
        ] {
            let answer = ask(address, &request).await;
            let first = answer.lines().next().unwrap_or_default();
            assert!(first.contains(status), "{request}: {answer}");
            let told = answer.contains("live_migration_migrations_total");
            assert_eq!(told, status == "200 OK", "{answer}");
        }
        let answer = ask(address, &format!("GET /metrics HTTP/1.1\r\n{knows}")).await;
        assert!(
            answer.contains(OPENMETRICS) && answer.ends_with("# EOF\n"),
            "{answer}"
        );
    }
}
