//! Ids, SKUs and money: parsed once, and then right.

use contracts::{Currency, EventId, Money, OrderId, Sku};

#[test]
fn a_sku_has_1_to_64_plain_characters() {
    for good in ["A", "SKU-1", "a.b_c-9", &"x".repeat(64)] {
        assert_eq!(Sku::parse(good).expect(good).as_str(), good);
    }
    for bad in ["", " ", "SKU 1", "SKU/1", "SKU-ä", "SKU\n", "SKU\0", "SKU%20", &"x".repeat(65)] {
        assert!(Sku::parse(bad).is_err(), "{bad:?}");
        let json = serde_json::to_string(bad).expect("text");
        assert!(serde_json::from_str::<Sku>(&json).is_err(), "{json}");
    }
}

#[test]
fn a_currency_is_three_capital_letters() {
    assert_eq!("EUR".parse::<Currency>().expect("a currency"), Currency::EUR);
    assert_eq!(Currency::USD.to_string(), "USD");
    for bad in ["", "EU", "EURO", "eur", "E R", "E1R", "ÄUR", "€"] {
        assert!(bad.parse::<Currency>().is_err(), "{bad:?}");
        assert!(serde_json::from_value::<Currency>(bad.into()).is_err(), "{bad:?}");
    }
}

#[test]
fn money_is_whole_minor_units_and_never_a_float() {
    let read = |text: &str| serde_json::from_str::<Money>(text);
    assert_eq!(read(r#"{"amount_minor":1999,"currency":"EUR"}"#).expect("money"), Money::new(1999, Currency::EUR));
    for bad in [
        r#"{"amount_minor":19.99,"currency":"EUR"}"#,
        r#"{"amount_minor":1e3,"currency":"EUR"}"#,
        r#"{"amount_minor":"1999","currency":"EUR"}"#,
        r#"{"amount_minor":9223372036854775808,"currency":"EUR"}"#,
        r#"{"amount_minor":1999,"currency":"eur"}"#,
        r#"{"amount_minor":1999}"#,
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn money_is_shown_with_the_decimals_of_its_currency() {
    for (minor, currency, shown) in [
        (0, "EUR", "0.00 EUR"),
        (5, "EUR", "0.05 EUR"),
        (1999, "EUR", "19.99 EUR"),
        (-1, "EUR", "-0.01 EUR"),
        (-12345, "USD", "-123.45 USD"),
        (i64::MAX, "EUR", "92233720368547758.07 EUR"),
        (i64::MIN, "EUR", "-92233720368547758.08 EUR"),
        (0, "JPY", "0 JPY"),
        (1999, "JPY", "1999 JPY"),
        (-1999, "KRW", "-1999 KRW"),
        (i64::MIN, "JPY", "-9223372036854775808 JPY"),
        (5, "KWD", "0.005 KWD"),
        (1999, "KWD", "1.999 KWD"),
        (-12345, "TND", "-12.345 TND"),
        (1999, "CLF", "0.1999 CLF"),
    ] {
        let currency = currency.parse().expect("a currency");
        assert_eq!(Money::new(minor, currency).to_string(), shown);
    }
}

/// The numbers as in ISO 4217's list one; a code with another number than here and 2 is a mistake in one of both.
#[test]
fn currencies_have_the_decimals_of_iso_4217() {
    for (decimals, codes) in [
        (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"),
        (2, "AUD BRL CAD CHF CNY CZK DKK EUR GBP HUF IDR INR MGA MRU MXN NOK NZD PLN SEK TRY TWD USD UYU ZAR XAU XXX"),
        (3, "BHD IQD JOD KWD LYD OMR TND"),
        (4, "CLF UYW"),
    ] {
        for code in codes.split(' ') {
            assert_eq!(code.parse::<Currency>().expect("a currency").decimals(), decimals, "{code}");
        }
    }
}

#[test]
fn new_ids_are_version_7_and_increase() {
    let (first, second) = (EventId::new(), EventId::new());
    assert_eq!(first.uuid().get_version_num(), 7);
    assert!(first < second);
    assert_eq!(OrderId::new().uuid().get_version_num(), 7);
}

#[test]
fn what_is_no_uuid_is_no_id() {
    for bad in ["", "1", "01890a5d-ac96-774b-bcce-b302099a805", "01890a5d-ac96-774b-bcce-b302099a805z"] {
        assert!(bad.parse::<OrderId>().is_err(), "{bad:?}");
        assert!(serde_json::from_value::<OrderId>(bad.into()).is_err(), "{bad:?}");
    }
}
