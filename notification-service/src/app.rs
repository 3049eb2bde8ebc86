//! Set-up and life of the service.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use contracts::topics;
use service::cli::Start;
use service::config::ConfigError;
use service::{MessagingConfig, Runtime};
use tokio::net::TcpListener;

use crate::config::{NotificationConfig, Outlet};
use crate::domain::Templates;
use crate::handlers::{NotificationHandler, Rules};
use crate::metrics::DeliveryGauges;
use crate::transport::{FolderTransport, SmtpTransport};
use crate::{NAME, http};

/// The service, ready to run.
pub struct App {
    addr: SocketAddr,
    listener: TcpListener,
    routes: Router,
    runtime: Runtime,
}

impl App {
    /// Checks the settings and templates, listens, and puts the parts together.
    ///
    /// # Errors
    /// Where settings contradict each other, a template or the folder for mails can't be used, or the address is taken.
    pub async fn build(start: Start<NotificationConfig>, messaging: MessagingConfig) -> anyhow::Result<Self> {
        let Start { service, own, pool, shutdown } = start;
        let settings = messaging.settings(NAME, &service)?;
        own.validate(&settings)?;
        let templates = own.template_dir.as_deref().map_or_else(Templates::built_in, Templates::with_folder);
        let templates = templates.map_err(|e| refused("TEMPLATE_DIR", &e))?;
        let rules = Rules {
            templates,
            sender: own.sender()?,
            on_unknown: own.unknown_delivery,
            timeout: own.smtp_timeout(),
            lease: own.lease(),
        };
        let listener = TcpListener::bind(service.http_addr).await;
        let listener = listener.with_context(|| format!("can't listen on {}", service.http_addr))?;
        let mut runtime = Runtime::new(pool.clone(), settings, shutdown).operated_with(service.operator_token);
        match own.outlet()? {
            Outlet::Folder(folder) => {
                let transport = FolderTransport::create(folder);
                let transport = transport.with_context(|| format!("can't make the folder {}", folder.display()))?;
                tracing::info!(folder = %folder.display(), "mails go into a folder");
                runtime.consume(NotificationHandler::new(transport, rules, pool.clone()), &[topics::ORDERS]);
            }
            Outlet::Smtp(url) => {
                let transport = SmtpTransport::new(url, own.smtp_timeout()).map_err(|e| refused("SMTP_URL", &e))?;
                runtime.consume(NotificationHandler::new(transport, rules, pool.clone()), &[topics::ORDERS]);
            }
        }
        let (gauges, db) = (DeliveryGauges::new(&runtime.meter()), pool.clone());
        runtime.task("unknown mails", |stop| async move {
            gauges.watch(db, stop).await;
            Ok(())
        });
        Ok(Self { addr: listener.local_addr()?, listener, routes: http::routes(pool), runtime })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Runs until the shutdown.
    ///
    /// # Errors
    /// Where a part fails, or does not stop in time.
    pub async fn run(self) -> anyhow::Result<()> {
        tracing::info!(addr = %self.addr, "{NAME} listens");
        self.runtime.run(self.listener, self.routes).await
    }
}

fn refused(variable: &str, reason: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::Invalid { variable: variable.to_owned(), reason: reason.to_string() }
}
