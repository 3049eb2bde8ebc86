//! What a mail server's behaviour means, by real conversations; and the folder.

use std::time::Duration;

use anyhow::{Context as _, Result};
use contracts::OrderId;
use contracts::orders::OrderEvent;
use messaging::{Failure, FailureKind, Reason};
use notification_service::domain::{Letter, Templates, letter};
use notification_service::transport::{FolderTransport, MailTransport, SmtpTransport};
use secrecy::SecretString;

use crate::app::BOUND;
use crate::events::{placed, placed_by};
use crate::mail_server::{Behaviour, MailServer, Stage};

fn written(event: &OrderEvent) -> Result<Letter> {
    let sender = "Order desk <orders@shop.example>".parse()?;
    Ok(letter::write(event, &Templates::built_in()?, &sender)?)
}

fn transport(url: String) -> Result<SmtpTransport> {
    waiting(url, BOUND)
}

/// One that waits so long for each answer.
fn waiting(url: String, timeout: Duration) -> Result<SmtpTransport> {
    Ok(SmtpTransport::new(&SecretString::from(url), timeout)?)
}

#[tokio::test]
async fn a_mail_is_handed_over_as_it_was_written() -> Result<()> {
    let server = MailServer::start(&[]).await?;
    let letter = written(&placed_by(OrderId::new(), "ada.lovelace@example.com"))?;
    transport(server.url())?.send(&letter).await?;
    let taken = server.taken().pop().context("no mail")?;
    assert_eq!(
        (taken.from.as_str(), taken.to.as_slice()),
        ("orders@shop.example", &["ada.lovelace@example.com".to_owned()][..])
    );
    assert_eq!(taken.header("Message-ID"), Some(letter.message_id.as_str()));
    assert_eq!(taken.text.trim_end(), String::from_utf8(letter.bytes)?.replace("\r\n", "\n").trim_end());
    Ok(())
}

/// How one mail fares with a server that behaves like this.
async fn outcome(behaviour: Behaviour) -> Result<(Failure, usize)> {
    let server = MailServer::start(&[behaviour]).await?;
    let silent = matches!(behaviour, Behaviour::Silent(_));
    let transport = waiting(server.url(), if silent { Duration::from_millis(500) } else { BOUND })?;
    let failure = transport.send(&written(&placed(OrderId::new()))?).await;
    let failure = failure.err().with_context(|| format!("{behaviour:?}: it was sent"))?;
    Ok((failure, server.taken().len()))
}

#[tokio::test]
async fn an_answer_of_4xx_is_retryable_and_of_5xx_a_refusal() -> Result<()> {
    for stage in [Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Message] {
        let (busy, taken) = outcome(Behaviour::Refuse(stage, 451)).await?;
        assert_eq!((busy.kind, busy.class.as_str(), taken), (FailureKind::Retryable, "smtp.451", 0), "{stage:?}");
        let (refused, taken) = outcome(Behaviour::Refuse(stage, 550)).await?;
        assert_eq!(refused.kind, FailureKind::Permanent(Reason::Rejected), "{stage:?}");
        assert_eq!((refused.class.as_str(), taken), ("smtp.550", 0), "{stage:?}");
        for failure in [busy, refused] {
            assert!(!failure.outcome_unknown(), "{stage:?}");
            assert!(failure.message.contains("a***@example.com"), "{failure}");
            assert!(!failure.message.contains("ada@"), "{failure}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_takes_nobodys_mail_is_an_outage() -> Result<()> {
    for behaviour in [
        Behaviour::Refuse(Stage::Greeting, 421),
        Behaviour::Refuse(Stage::Greeting, 554),
        Behaviour::Cut(Stage::Greeting),
        Behaviour::Silent(Stage::Greeting),
    ] {
        let (failure, _) = outcome(behaviour).await?;
        assert_eq!(failure.kind, FailureKind::Outage, "{behaviour:?}");
    }
    let server = MailServer::start(&[Behaviour::Refuse(Stage::Auth, 535)]).await?;
    let url = server.url().replace("smtp://", "smtp://ada:secret@");
    let failure = transport(url)?.send(&written(&placed(OrderId::new()))?).await.err().context("sent")?;
    assert_eq!(failure.kind, FailureKind::Outage);
    let nobody = format!("smtp://127.0.0.1:{}", testkit::free_port()?);
    let failure = transport(nobody)?.send(&written(&placed(OrderId::new()))?).await.err().context("sent")?;
    assert_eq!((failure.kind, failure.class.as_str()), (FailureKind::Outage, "smtp.connect"));
    Ok(())
}

#[tokio::test]
async fn a_lost_connection_is_in_doubt_only_behind_the_message() -> Result<()> {
    for stage in [Stage::Mail, Stage::Rcpt, Stage::Data] {
        for behaviour in [Behaviour::Cut(stage), Behaviour::Silent(stage)] {
            let (failure, taken) = outcome(behaviour).await?;
            assert_eq!(
                (failure.kind, failure.outcome_unknown(), taken),
                (FailureKind::Retryable, false, 0),
                "{behaviour:?}"
            );
        }
    }
    for behaviour in [Behaviour::Cut(Stage::Message), Behaviour::Silent(Stage::Message)] {
        let (failure, taken) = outcome(behaviour).await?;
        assert_eq!(
            (failure.kind, failure.outcome_unknown(), taken),
            (FailureKind::Retryable, true, 1),
            "{behaviour:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_address_beyond_ascii_is_refused_where_the_server_does_not_take_it() -> Result<()> {
    let server = MailServer::start(&[]).await?;
    let failure = transport(server.url())?.send(&written(&placed_by(OrderId::new(), "adä@example.com"))?).await;
    let failure = failure.err().context("it was sent")?;
    assert_eq!((failure.kind, failure.class.as_str()), (FailureKind::Permanent(Reason::Rejected), "smtp.utf8"));
    assert_eq!(server.taken().len(), 0);
    Ok(())
}

#[tokio::test]
async fn the_folder_shows_a_mail_that_was_sent_twice() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let transport = FolderTransport::create(&folder.path().join("new/mails"))?;
    let order = OrderId::new();
    let letter = written(&placed(order))?;
    for _ in 0..3 {
        transport.send(&letter).await?;
    }
    let mut names: Vec<String> = std::fs::read_dir(folder.path().join("new/mails"))?
        .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
        .collect::<Result<_>>()?;
    names.sort();
    let name = |copy: &str| format!("{order}.order_received.{copy}eml");
    assert_eq!(names, [name("2."), name("3."), name("")]);
    let content = std::fs::read(folder.path().join("new/mails").join(name("")))?;
    assert_eq!(content, letter.bytes);

    std::fs::remove_dir_all(folder.path().join("new"))?;
    let gone = transport.send(&letter).await.err().context("it was written")?;
    assert_eq!((gone.kind, gone.outcome_unknown()), (FailureKind::Outage, false));
    Ok(())
}
