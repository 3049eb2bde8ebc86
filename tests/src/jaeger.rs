//! A real Jaeger for a story, where this machine has one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::{Scratch, ServiceOptions, ServiceProcess, free_port};

use crate::BOUND;

/// A running Jaeger that keeps traces in memory.
#[derive(Debug)]
pub struct Jaeger {
    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: String,
    /// Its API and pages, without a slash at its end.
    pub url: String,
    process: ServiceProcess,
    _folder: Scratch,
}

/// The program: `JAEGER_BINARY`, else `jaeger` on the path, else built by the kit in `OFFLINE_IMAGES` (minutes, once).
///
/// # Errors
/// When the kit is there and fails.
pub fn program() -> Result<Option<PathBuf>> {
    if let Some(named) = std::env::var_os("JAEGER_BINARY") {
        return Ok(Some(named.into()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).map(|folder| folder.join("jaeger")).find(|file| file.is_file()) {
        return Ok(Some(found));
    }
    let Some(kit) = std::env::var_os("OFFLINE_IMAGES").map(|kit| Path::new(&kit).join("jaeger/build")) else {
        return Ok(None);
    };
    if !kit.is_file() {
        return Ok(None);
    }
    let built = std::env::temp_dir().join("order-suite-jaeger");
    let status = Command::new(&kit).arg(&built).status().with_context(|| format!("running {}", kit.display()))?;
    ensure!(status.success(), "{} ended with {status}", kit.display());
    Ok(Some(built))
}

impl Jaeger {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(program: PathBuf) -> Result<Self> {
        let folder = Scratch::new("jaeger")?;
        let (otlp, pages, grpc) = (free_port()?, free_port()?, free_port()?);
        let config = folder.path().join("jaeger.yaml");
        std::fs::write(&config, configuration(otlp, pages, grpc))?;
        let process = ServiceProcess::spawn(ServiceOptions {
            name: "jaeger".to_owned(),
            program,
            arguments: vec!["--config".to_owned(), config.display().to_string()],
            environment: Vec::new(),
            log_file: folder.path().join("jaeger.log"),
        })?;
        let (endpoint, url) = (format!("http://127.0.0.1:{otlp}"), format!("http://127.0.0.1:{pages}"));
        let mut jaeger = Self { endpoint, url, process, _folder: folder };
        let ready = format!("{}/api/services", jaeger.url);
        jaeger.process.wait_ready(&ready, BOUND).await?;
        Ok(jaeger)
    }

    /// Ends it.
    pub async fn throw_away(mut self) {
        let _ = self.process.kill9().await;
    }
}

fn configuration(otlp: u16, pages: u16, grpc: u16) -> String {
    format!(
        r#"service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {{ receivers: [otlp], exporters: [jaeger_storage_exporter] }}
  telemetry:
    metrics: {{ level: none }}
extensions:
  jaeger_query:
    storage: {{ traces: memory }}
    http: {{ endpoint: "127.0.0.1:{pages}" }}
    grpc: {{ endpoint: "127.0.0.1:{grpc}" }}
  jaeger_storage:
    backends: {{ memory: {{ memory: {{ max_traces: 100000 }} }} }}
receivers:
  otlp: {{ protocols: {{ http: {{ endpoint: "127.0.0.1:{otlp}" }} }} }}
exporters:
  jaeger_storage_exporter: {{ trace_storage: memory }}
"#
    )
}
