//! Templates: files whose first line is the subject and whose `{{placeholders}}` are filled in.

use std::fmt;
use std::path::Path;

/// Which mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Template {
    /// To `order.cancelled`.
    OrderCancelled,
    /// To `order.confirmed`.
    OrderConfirmed,
    /// To `order.placed`.
    OrderReceived,
}

impl Template {
    /// Every template; their order is that of their names, as PostgreSQL sorts them.
    pub const ALL: [Self; 3] = [Self::OrderCancelled, Self::OrderConfirmed, Self::OrderReceived];

    /// As events, tables and files spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OrderReceived => "order_received",
            Self::OrderConfirmed => "order_confirmed",
            Self::OrderCancelled => "order_cancelled",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|template| template.as_str() == text)
    }

    /// What its text may ask for.
    pub fn placeholders(self) -> &'static [&'static str] {
        match self {
            Self::OrderReceived => &["order_number", "order_id", "total", "lines"],
            Self::OrderConfirmed => &["order_number", "order_id", "total"],
            Self::OrderCancelled => &["order_number", "order_id", "total", "reason"],
        }
    }

    fn built_in(self) -> &'static str {
        match self {
            Self::OrderReceived => include_str!("../../templates/order_received.txt"),
            Self::OrderConfirmed => include_str!("../../templates/order_confirmed.txt"),
            Self::OrderCancelled => include_str!("../../templates/order_cancelled.txt"),
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a template can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("template {template}: {complaint}")]
pub struct InvalidTemplate {
    template: Template,
    complaint: String,
}

/// The templates in use, checked.
#[derive(Debug, Clone)]
pub struct Templates {
    texts: Vec<(Template, Text)>,
}

#[derive(Debug, Clone)]
struct Text {
    subject: String,
    body: String,
}

impl Templates {
    /// Those that come with the program.
    pub fn built_in() -> Result<Self, InvalidTemplate> {
        Self::of(|_| Ok(None))
    }

    /// The files of `folder`; what is missing there is built in.
    pub fn with_folder(folder: &Path) -> Result<Self, InvalidTemplate> {
        Self::of(|template| match std::fs::read_to_string(folder.join(format!("{template}.txt"))) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        })
    }

    fn of(own: impl Fn(Template) -> Result<Option<String>, String>) -> Result<Self, InvalidTemplate> {
        let read = |template: Template| {
            let text = own(template).and_then(|text| {
                parse(text.as_deref().unwrap_or_else(|| template.built_in()), template.placeholders())
            });
            text.map(|text| (template, text)).map_err(|complaint| InvalidTemplate { template, complaint })
        };
        Ok(Self { texts: Template::ALL.into_iter().map(read).collect::<Result<_, _>>()? })
    }

    /// Subject and body, filled in with `values`, one for each of the template's placeholders.
    pub fn fill(&self, template: Template, values: &[(&str, String)]) -> (String, String) {
        let text = self.texts.iter().find(|(known, _)| *known == template).map(|(_, text)| text);
        let value = |name: &str| values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        let filled = |text: &str| {
            let (mut filled, mut rest) = (String::with_capacity(text.len() + 256), text);
            while let Some((before, name, after)) = next_placeholder(rest) {
                filled.push_str(before);
                filled.push_str(value(name).unwrap_or_default());
                rest = after;
            }
            filled + rest
        };
        // Every template is read by the constructors.
        text.map(|text| (filled(&text.subject), filled(&text.body))).unwrap_or_default()
    }
}

/// What stands before the first placeholder, its name, and what stands behind it.
fn next_placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("{{")?;
    let (name, after) = rest.split_once("}}")?;
    Some((before, name.trim(), after))
}

fn parse(text: &str, known: &[&str]) -> Result<Text, String> {
    let (first, body) = text.split_once('\n').unwrap_or((text, ""));
    let subject = first.strip_prefix("Subject:").map(str::trim).filter(|subject| !subject.is_empty());
    let subject = subject.ok_or("its first line must be \"Subject: ...\"")?;
    let body = body.trim_start_matches(['\r', '\n']);
    if body.trim().is_empty() {
        return Err("it has no text".to_owned());
    }
    for part in [subject, body] {
        let mut rest = part;
        while let Some((_, name, after)) = next_placeholder(rest) {
            if !known.contains(&name) {
                return Err(format!("{{{{{name}}}}} is unknown; there are {}", known.join(", ")));
            }
            rest = after;
        }
        if rest.contains("{{") {
            return Err("a placeholder is not closed".to_owned());
        }
    }
    // It would break the header; its lines are many.
    if subject.contains("{{lines}}") {
        return Err("{{lines}} can't stand in the subject".to_owned());
    }
    Ok(Text { subject: subject.to_owned(), body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        let own = |template| Ok((template == Template::OrderConfirmed).then(|| text.to_owned()));
        Templates::of(own).err().map(|invalid| invalid.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_built_in_ones_can_be_used() {
        Templates::built_in().expect("they are tested");
    }

    #[test]
    fn their_order_is_that_of_their_names() {
        assert!(Template::ALL.is_sorted() && Template::ALL.map(Template::as_str).is_sorted());
    }

    #[test]
    fn what_cannot_be_filled_in_is_refused_at_the_start() {
        assert_eq!(complaint("Subject: {{order_number}}\n\nHello {{ total }}\n"), "");
        for (text, expected) in [
            ("Hello", "its first line must be"),
            ("Subject:\n\nHello", "its first line must be"),
            ("Subject: a\n\n \n", "it has no text"),
            ("Subject: a\n\n{{name}}", "{{name}} is unknown; there are order_number, order_id, total"),
            ("Subject: a\n\n{{lines}}", "{{lines}} is unknown"),
            ("Subject: a\n\n{{total", "a placeholder is not closed"),
        ] {
            assert!(complaint(text).contains(expected), "{text}: {}", complaint(text));
        }
    }

    #[test]
    fn a_folder_replaces_what_it_has() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("order_confirmed.txt"), "Subject: Yes {{order_id}}\n\nDone.\n")
            .expect("written");
        let templates = Templates::with_folder(folder.path()).expect("usable");
        let values = [("order_id", "7".to_owned())];
        assert_eq!(templates.fill(Template::OrderConfirmed, &values), ("Yes 7".to_owned(), "Done.\n".to_owned()));
        assert!(templates.fill(Template::OrderReceived, &values).0.starts_with("We have received"));
    }

    #[test]
    fn a_value_is_not_filled_in_itself() {
        let templates = Templates::built_in().expect("usable");
        let values = [("reason", "{{total}}".to_owned()), ("total", "5".to_owned())];
        assert!(templates.fill(Template::OrderCancelled, &values).1.contains("was cancelled: {{total}}."));
    }
}
