//! Binary and structured mode, and what is refused as what.

use contracts::envelope::{decode, header_text};
use contracts::event::base_type;
use contracts::orders::OrderEvent;
use contracts::{DecodeError, EventSet, Header};

use crate::headers;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn structured() -> Vec<Header> {
    headers(&[("content-type", "application/cloudevents+json; charset=UTF-8")])
}

fn undecodable<T: std::fmt::Debug>(answer: Result<T, DecodeError>, expected: &str) {
    match answer {
        Err(DecodeError::Undecodable(message)) if message.contains(expected) => {}
        other => panic!("expected an undecodable with {expected:?}, got {other:?}"),
    }
}

fn unsupported<T: std::fmt::Debug>(answer: Result<T, DecodeError>, expected: &str) {
    match answer {
        Err(DecodeError::UnsupportedVersion(message)) if message.contains(expected) => {}
        other => panic!("expected an unsupported version with {expected:?}, got {other:?}"),
    }
}

#[test]
fn a_structured_event_says_the_same_as_a_binary_one() {
    let binary = headers(&[
        ("ce_specversion", "1.0"),
        ("ce_id", "a"),
        ("ce_source", "/elsewhere"),
        ("ce_type", "order.placed.v1"),
        ("ce_time", "2023-06-29T21:35:00.5Z"),
        ("ce_subject", "s"),
        ("ce_causationid", "c"),
        ("content-type", "application/json"),
        ("traceparent", TRACE),
    ]);
    let (expected, data) = decode(&binary, Some(br#"{"a": 1.0}"#)).expect("binary");
    let body = format!(
        r#"{{"specversion":"1.0","id":"a","source":"/elsewhere","type":"order.placed.v1","time":"2023-06-29T21:35:00.5Z",
            "subject":"s","causationid":"c","traceparent":"{TRACE}","datacontenttype":"application/json","other":[1],
            "data":{{"a": 1.0}}}}"#
    );
    let headers = structured();
    let (envelope, structured_data) = decode(&headers, Some(body.as_bytes())).expect("structured");
    assert_eq!(envelope, expected);
    assert_eq!(structured_data, data, "the data's bytes are untouched");
}

#[test]
fn the_media_type_decides_the_mode_whatever_its_case_and_parameters() {
    let body = br#"{"specversion":"1.0","type":"t","data":{}}"#;
    for media_type in ["application/cloudevents+json", "Application/CloudEvents+JSON ; charset=utf-8"] {
        let headers = headers(&[("Content-Type", media_type)]);
        let (envelope, data) = decode(&headers, Some(body)).expect(media_type);
        assert_eq!((&*envelope.event_type, data), ("t", &b"{}"[..]));
    }
    // Any other type, or none, is the data's own.
    for media_type in ["application/json", "text/plain", ""] {
        let headers = headers(&[("content-type", media_type), ("ce_type", "t")]);
        let (_, data) = decode(&headers, Some(body)).expect(media_type);
        assert_eq!(data, body);
    }
}

#[test]
fn formats_that_are_not_read_are_named() {
    for media_type in ["application/cloudevents-batch+json", "application/cloudevents+avro"] {
        undecodable(decode(&headers(&[("content-type", media_type)]), Some(b"[]")), media_type);
    }
}

#[test]
fn the_trace_of_the_record_wins_over_the_event_s_own() {
    let other = "00-11111111111111111111111111111111-1111111111111111-00";
    let both = headers(&[("content-type", "application/cloudevents+json"), ("traceparent", TRACE)]);
    let body = format!(r#"{{"specversion":"1.0","type":"t","data":1,"traceparent":"{other}"}}"#);
    let (envelope, _) = decode(&both, Some(body.as_bytes())).expect("readable");
    assert_eq!(envelope.trace.expect("a trace").to_string(), TRACE);
    let headers = structured();
    let (envelope, _) = decode(&headers, Some(body.as_bytes())).expect("readable");
    assert_eq!(envelope.trace.expect("a trace").to_string(), other);
}

#[test]
fn what_a_consumer_can_do_without_may_be_missing_or_broken() {
    let few = headers(&[("ce_type", "t"), ("ce_time", "yesterday"), ("traceparent", "none")]);
    let (envelope, _) = decode(&few, Some(b"")).expect("readable");
    assert_eq!((&*envelope.id, &*envelope.source), ("", ""));
    assert_eq!((envelope.time, envelope.subject, envelope.causation_id, envelope.trace), (None, None, None, None));
}

#[test]
fn a_record_that_is_no_event_is_undecodable() {
    undecodable(decode(&headers(&[("ce_type", "t")]), None), "no value");
    undecodable(decode(&[], Some(b"{}")), "ce_type is missing");
    undecodable(decode(&headers(&[("ce_type", "")]), Some(b"{}")), "ce_type is missing");
    let not_text: Vec<Header> = vec![("ce_type".into(), Some(vec![0xff, 0xfe].into()))];
    undecodable(decode(&not_text, Some(b"{}")), "ce_type is missing");
    undecodable(decode(&[("ce_type".into(), None)], Some(b"{}")), "ce_type is missing");
}

#[test]
fn a_broken_structured_event_is_undecodable() {
    for (body, expected) in [
        ("", "EOF"),
        ("not json", "expected"),
        ("[]", "structured CloudEvent"),
        (r#"{"specversion":"1.0","data":{}}"#, "`type`"),
        (r#"{"type":"t","data":{}}"#, "`specversion`"),
        (r#"{"specversion":"1.0","type":"t"}"#, "without data"),
        (r#"{"specversion":"1.0","type":"t","data":null}"#, "without data"),
        (r#"{"specversion":"1.0","type":"t","data_base64":"e30="}"#, "without data"),
        (r#"{"specversion":"1.0","type":1,"data":{}}"#, "invalid type"),
        (r#"{"specversion":"1.0","type":"t","data":{}"#, "EOF"),
    ] {
        undecodable(decode(&structured(), Some(body.as_bytes())), expected);
    }
}

#[test]
fn another_version_of_cloudevents_is_not_supported() {
    let later = headers(&[("ce_specversion", "2.0"), ("ce_type", "t")]);
    unsupported(decode(&later, Some(b"{}")), "CloudEvents 2.0");
    let body = br#"{"specversion":"0.3","type":"t","data":{}}"#;
    unsupported(decode(&structured(), Some(body)), "CloudEvents 0.3");
}

#[test]
fn a_known_event_in_another_version_is_not_supported_and_a_foreign_one_is_nobody_s_business() {
    for version in ["order.placed.v2", "order.placed.v10", "order.placed.v0", "order.placed"] {
        unsupported(OrderEvent::decode(version, b"{}"), version);
    }
    for foreign in ["payment.captured.v1", "order.shipped.v1", "order", "", "order.placed.v1.extra"] {
        assert!(matches!(OrderEvent::decode(foreign, b"not json"), Ok(None)), "{foreign}");
    }
}

#[test]
fn data_that_breaks_the_contract_is_undecodable_and_names_the_event() {
    for data in ["", "{", "null", "[]", "{}", r#"{"order_id":"x"}"#, "\u{feff}{}"] {
        undecodable(OrderEvent::decode("order.confirmed.v1", data.as_bytes()), "order.confirmed.v1");
    }
    undecodable(OrderEvent::decode("order.confirmed.v1", b"\xff\xff"), "order.confirmed.v1");
}

#[test]
fn a_version_is_the_last_part_of_a_type_where_it_is_a_number() {
    for (event_type, base) in [
        ("order.placed.v1", "order.placed"),
        ("order.placed.v12", "order.placed"),
        ("order.placed.v", "order.placed.v"),
        ("order.placed.v1b", "order.placed.v1b"),
        ("order.v1.placed", "order.v1.placed"),
        ("order.placed", "order.placed"),
        (".v1", ""),
    ] {
        assert_eq!(base_type(event_type), base, "{event_type}");
    }
}

#[test]
fn of_repeated_headers_the_first_one_counts_and_names_have_no_case() {
    let twice = headers(&[("CE_Type", "first"), ("ce_type", "second")]);
    assert_eq!(header_text(&twice, "ce_type"), Some("first"));
    assert_eq!(header_text(&twice, "ce_id"), None);
}
