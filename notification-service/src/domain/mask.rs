//! Addresses of people, unreadable: for logs, failures and tables.

/// `ada@example.com` becomes `a***@example.com`.
pub fn address(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((local, domain)) => {
            let first: String = local.chars().take(1).collect();
            format!("{first}***@{domain}")
        }
        None => "***".to_owned(),
    }
}

/// Masks every address in a text, for example in what a mail server answers.
pub fn addresses(text: &str) -> String {
    let outside =
        |c: char| c.is_whitespace() || matches!(c, '<' | '>' | '(' | ')' | '[' | ']' | '"' | '\'' | ',' | ';' | ':');
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(outside).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.contains('@') {
            masked.push_str(&address(word))
        } else {
            masked.push_str(word)
        }
        let mark = after.chars().next();
        masked.extend(mark);
        rest = &after[mark.map_or(0, char::len_utf8)..];
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_letter_and_the_domain_stay() {
        assert_eq!(address("ada@example.com"), "a***@example.com");
        assert_eq!(address("ä@b"), "ä***@b");
        assert_eq!(address("@b"), "***@b");
        assert_eq!(address("not an address"), "***");
    }

    #[test]
    fn an_answer_keeps_its_words_but_no_address() {
        assert_eq!(
            addresses("5.1.1 <ada.l@example.com>: user unknown, see bob@example.com"),
            "5.1.1 <a***@example.com>: user unknown, see b***@example.com"
        );
        assert_eq!(addresses("4.3.2 try later\n"), "4.3.2 try later\n");
    }

    proptest! {
        #[test]
        fn no_address_survives(before in ".{0,10}", local in "[a-z0-9.]{4,12}", after in "[ >,;:)].{0,10}") {
            let text = format!("{before}<{local}@example.com{after}");
            prop_assert!(!addresses(&text).contains(&local), "{}", addresses(&text));
        }
    }
}
