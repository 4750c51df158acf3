//! How each program starts and ends.

use std::{future::Future, process::ExitCode};

use tracing::error;

use crate::{aws::error_chain, telemetry};

/// Why a program cannot start, or go on.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The `main` of a program: it logs from the beginning, and where `main` fails, a line says why.
pub async fn run(main: impl Future<Output = Result<(), Error>>) -> ExitCode {
    telemetry::init();
    match main.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = error_chain(&*error), "the function ends");
            ExitCode::FAILURE
        }
    }
}
