//! Measures how long after an edit in Parameter Store, past Tenantry, readers get it: with events,
//! and without.
//!
//! ```sh
//! cargo run -p local --example staleness
//! ```
//!
//! It takes about three minutes, and tells times to a fifth of a second. What it shows is
//! Tenantry's own share. The emulator delivers events at once, while AWS mostly takes a second or
//! two, and promises nothing; and there are few parameters here, so that each minute's comparison
//! gets round to all of them.

mod operator;

use std::{
    error::Error,
    io::{self, Write},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use local::{Options, Suite, issuer::DEFAULT_SCOPE};
use serde_json::{Value, json};

/// How many keys are edited, each once.
const EDITS: usize = 20;
/// The period of the schedule. Edits are spread over one, so that they meet it at any time.
const PERIOD: Duration = Duration::from_mins(1);
/// How often a reader looks; more often, and the readers' own load would be what is measured.
const EVERY: Duration = Duration::from_millis(200);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    for (case, lose_events) in [("with events", false), ("without events", true)] {
        let mut late = measure(lose_events).await?;
        late.sort_unstable();
        let percentile = |percent: usize| late[(late.len() - 1) * percent / 100];
        let (median, most) = (percentile(50), percentile(100));
        writeln!(io::stdout(), "{case:15} {EDITS} edits: median {median:.3?}, at most {most:.3?}")?;
    }
    Ok(())
}

/// How late each edit was seen.
async fn measure(lose_events: bool) -> Result<Vec<Duration>, Box<dyn Error>> {
    // It asks more often than a tenant may.
    let parameters = [("TenantRateLimit".to_owned(), "0".to_owned())].into();
    let suite = Suite::start(Options { parameters, lose_events, run_schedules: true, ..Options::default() }).await?;
    let reader = Reader {
        http: Client::builder(TokioExecutor::new()).build_http(),
        url: suite.http_url().to_owned(),
        authorization: format!("Bearer {}", suite.token("acme", DEFAULT_SCOPE)?),
    };
    let parameters = operator::parameter_store(&suite);
    for nth in 0..EDITS {
        reader.send(Method::PUT, &format!("param_config_{nth}"), json!({"value": "ours"}).to_string()).await?;
    }
    let late = try_join_all((0..EDITS).map(async |nth| {
        let key = format!("param_config_{nth}");
        tokio::time::sleep(PERIOD.mul_f64(fastrand::f64())).await;
        let name = format!("/tenantry/acme/param_config_/{nth}");
        parameters.put_parameter().name(name).value("theirs").overwrite(true).send().await?;
        let edited = Instant::now();
        while reader.send(Method::GET, &key, String::new()).await?["value"] != "theirs" {
            tokio::time::sleep(EVERY).await;
        }
        Ok::<_, Box<dyn Error>>(edited.elapsed())
    }))
    .await?;
    suite.stop().await;
    Ok(late)
}

/// A client of one tenant.
struct Reader {
    http: Client<HttpConnector, Full<Bytes>>,
    url: String,
    authorization: String,
}

impl Reader {
    async fn send(&self, method: Method, key: &str, body: String) -> Result<Value, Box<dyn Error>> {
        let request = Request::builder().method(method).uri(format!("{}/v1/config/{key}", self.url));
        let request = request.header(header::AUTHORIZATION, &self.authorization).body(Full::new(Bytes::from(body)))?;
        let (parts, body) = self.http.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        if !matches!(parts.status, StatusCode::OK | StatusCode::CREATED) {
            return Err(format!("{key}: {} {}", parts.status, String::from_utf8_lossy(&body)).into());
        }
        Ok(serde_json::from_slice(&body)?)
    }
}
