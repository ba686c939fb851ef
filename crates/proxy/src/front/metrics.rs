//! Metrics for Prometheus, by HTTP. Anybody who reaches the address may ask, and may be anything: there is a bound for
//! connections, for their time and for the work that they cause. What is told is in the crate `console`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pgsluice_console::{METRICS_TYPE, metrics};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_local};
use tracing::{debug, info, warn};

use super::Front;

/// Connections at once. For one more the oldest is closed, so that whoever holds many keeps nobody from being served.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of a request's head.
const REQUEST_HEAD_MAX: usize = 16 << 10;
/// How long the head of a request may take.
const HEAD_WAIT: Duration = Duration::from_secs(5);
/// How long a connection may last, its one answer included; Prometheus waits as long by default.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);
/// How long the same answer is given: however often somebody asks, the workers are asked no more than that.
const FRESH: Duration = Duration::from_secs(1);
/// Pause when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The endpoint's state.
#[derive(Default)]
struct Endpoint {
    /// The last answer, shared by all who read it, and when it was made. Whoever makes the next one holds the lock, so that
    /// others wait for it instead of making their own.
    answer: Mutex<Option<(Instant, Bytes)>>,
    /// The oldest first.
    connections: RefCell<VecDeque<JoinHandle<()>>>,
}

impl Front {
    /// Begins to answer on these.
    pub(super) fn serve_metrics(self: &Rc<Self>, listeners: Vec<TcpListener>) {
        let endpoint = Rc::new(Endpoint::default());
        for listener in listeners {
            let address = listener.local_addr().map_or_else(|_| "?".into(), |a| a.to_string());
            info!("metrics are at http://{address}/metrics");
            let (front, endpoint) = (self.clone(), endpoint.clone());
            self.shutdown.keep(spawn_local(async move { front.accept_scrapers(listener, endpoint).await }));
        }
    }

    async fn accept_scrapers(self: Rc<Self>, listener: TcpListener, endpoint: Rc<Endpoint>) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    endpoint.make_room();
                    let scrape = spawn_local(self.clone().serve_scraper(stream, endpoint.clone()));
                    endpoint.connections.borrow_mut().push_back(scrape);
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection for metrics");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// One request and its answer.
    async fn serve_scraper(self: Rc<Self>, stream: TcpStream, endpoint: Rc<Endpoint>) {
        let service = service_fn(|request: Request<Incoming>| {
            let (front, endpoint) = (self.clone(), endpoint.clone());
            async move { Ok::<_, Infallible>(front.answer(&endpoint, &request).await) }
        });
        let connection = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(REQUEST_HEAD_MAX)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT)
            .serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(CONNECTION_WAIT, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "a connection for metrics has ended"),
            Err(_) => debug!("a connection for metrics took too long"),
        }
    }

    async fn answer(self: &Rc<Self>, endpoint: &Rc<Endpoint>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => {
                response(StatusCode::OK, (CONTENT_TYPE, METRICS_TYPE), self.fresh_metrics(endpoint).await)
            }
            (_, "/metrics") => response(StatusCode::METHOD_NOT_ALLOWED, (ALLOW, "GET"), Bytes::new()),
            _ => {
                let hint = Bytes::from_static(b"metrics are at /metrics\n");
                response(StatusCode::NOT_FOUND, (CONTENT_TYPE, "text/plain; charset=utf-8"), hint)
            }
        }
    }

    async fn fresh_metrics(self: &Rc<Self>, endpoint: &Rc<Endpoint>) -> Bytes {
        let (front, endpoint) = (self.clone(), endpoint.clone());
        // A task of its own: the connection that asked may be closed to make room, and others wait for the same answer.
        let making = spawn_local(async move {
            let mut answer = endpoint.answer.lock().await;
            if let Some((_, text)) = answer.as_ref().filter(|(made, _)| made.elapsed() < FRESH) {
                return text.clone();
            }
            let text = Bytes::from(metrics(&front.show_metrics().await));
            *answer = Some((Instant::now(), text.clone()));
            text
        });
        making.await.unwrap_or_default()
    }
}

impl Endpoint {
    fn make_room(&self) {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= CONNECTIONS_MAX
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
    }
}

fn response(status: StatusCode, header: (HeaderName, &'static str), body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header.0, hyper::header::HeaderValue::from_static(header.1));
    response
}
