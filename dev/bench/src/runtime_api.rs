//! A stand-in for Lambda's runtime API: hands out events and takes the answers, and knows when each
//! came and went.

use std::{
    io::{self, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::http::{read_request, write_answer};

/// How long a function may take for an answer: valgrind makes it some fifty times slower.
const PATIENCE: Duration = Duration::from_mins(2);

/// A runtime API for one function.
#[derive(Debug)]
pub(crate) struct RuntimeApi {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    events: Sender<Arc<[u8]>>,
    answers: Receiver<Answer>,
}

/// What a function answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// When the event had been handed out.
    pub(crate) sent: Instant,
    /// When the answer was there.
    pub(crate) done: Instant,
    /// The path that it was posted to.
    path: String,
    body: Vec<u8>,
}

/// What the connections of one function share.
struct Shared {
    events: Mutex<Receiver<Arc<[u8]>>>,
    sent: Mutex<Instant>,
    answers: Sender<Answer>,
}

impl RuntimeApi {
    /// Listens on a free port, as long as this process runs. Dropped, it has no further events,
    /// which ends its function.
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (events, to_hand_out) = channel();
        let (to_report, answers) = channel();
        let shared =
            Arc::new(Shared { events: Mutex::new(to_hand_out), sent: Mutex::new(Instant::now()), answers: to_report });
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // A broken connection shows as an answer that never comes.
                thread::spawn(move || shared.serve(stream));
            }
        });
        Ok(Self { address, events, answers })
    }

    /// Hands out one event and waits for its answer, which must be a success of the function's.
    pub(crate) fn call(&self, event: &Arc<[u8]>) -> Result<Answer, String> {
        self.events.send(Arc::clone(event)).map_err(|_| "the function has gone".to_owned())?;
        let answer = self.answers.recv_timeout(PATIENCE).map_err(|_| "the function does not answer".to_owned())?;
        let text = String::from_utf8_lossy(&answer.body);
        if answer.path.ends_with("/response") && text.contains(r#""statusCode":200"#) {
            Ok(answer)
        } else {
            Err(format!("the function answered {}: {text}", answer.path))
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut to = stream.try_clone()?;
        let mut from = BufReader::new(stream);
        let mut id = 0;
        while let Some(request) = read_request(&mut from)? {
            let mut words = request.line.split(' ');
            match (words.next(), words.next().unwrap_or_default()) {
                (Some("GET"), _) => {
                    let next = self.events.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    // No further event: the closed connection ends the function.
                    let Ok(event) = next else { return Ok(()) };
                    id += 1;
                    let headers = format!(
                        "content-type: application/json\r\n\
                         lambda-runtime-aws-request-id: 8476a536-e9f4-11e8-9739-2dfe598c{id:04x}\r\n\
                         lambda-runtime-deadline-ms: 4102444800000\r\n\
                         lambda-runtime-invoked-function-arn: arn:aws:lambda:us-east-1:123456789012:function:bench\r\n\
                         lambda-runtime-trace-id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0\r\n"
                    );
                    write_answer(&mut to, "200 OK", &headers, &event)?;
                    *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                }
                (_, path) => {
                    let done = Instant::now();
                    let sent = *self.sent.lock().unwrap_or_else(PoisonError::into_inner);
                    let path = path.to_owned();
                    write_answer(&mut to, "202 Accepted", "content-type: application/json\r\n", br#"{"status":"OK"}"#)?;
                    if self.answers.send(Answer { sent, done, path, body: request.body }).is_err() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}
