//! `traceparent` as W3C Trace Context has it, section 3.2.

use contracts::TraceParent;
use contracts::envelope::trace_of;

use crate::headers;

const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn a_traceparent_is_read_and_written() {
    let trace: TraceParent = GOOD.parse().expect("the standard's own example");
    assert_eq!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(trace.span_id(), "00f067aa0ba902b7");
    assert!(trace.sampled());
    assert_eq!(trace.to_string(), GOOD);
    let unsampled: TraceParent = GOOD.replace("-01", "-00").parse().expect("valid");
    assert!(!unsampled.sampled());
}

#[test]
fn spaces_around_a_header_are_no_part_of_it() {
    assert_eq!(format!(" \t{GOOD} ").parse::<TraceParent>().expect("valid").to_string(), GOOD);
}

#[test]
fn a_later_version_may_say_more_and_is_passed_on_as_the_one_that_is_known() {
    for later in [
        "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more-to-come",
    ] {
        assert_eq!(later.parse::<TraceParent>().expect(later).to_string(), GOOD);
    }
}

#[test]
fn flags_that_are_not_known_are_not_passed_on() {
    for (flags, passed_on) in [("ff", "01"), ("fe", "00"), ("09", "01"), ("08", "00")] {
        let trace: TraceParent = GOOD.replace("-01", &format!("-{flags}")).parse().expect("valid");
        assert_eq!(trace.to_string(), GOOD.replace("-01", &format!("-{passed_on}")));
    }
}

#[test]
fn anything_else_is_refused() {
    let zero_trace = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
    let zero_span = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01";
    for bad in [
        "",
        "00",
        "00-",
        "-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e47366-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b-01",
        "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01, 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        zero_trace,
        zero_span,
    ] {
        assert!(bad.parse::<TraceParent>().is_err(), "{bad:?}");
        assert_eq!(trace_of(&headers(&[("traceparent", bad)])), None);
    }
}

#[test]
fn a_child_is_another_span_of_the_same_trace() {
    let root = TraceParent::new_root();
    let child = root.child();
    assert_eq!(child.trace_id(), root.trace_id());
    assert_ne!(child.span_id(), root.span_id());
    assert!(root.sampled() && child.sampled());
    assert_ne!(TraceParent::new_root().trace_id(), root.trace_id());
}

#[test]
fn ids_of_zero_make_no_trace() {
    assert_eq!(TraceParent::from_parts(0, 1, 1), None);
    assert_eq!(TraceParent::from_parts(1, 0, 1), None);
    assert!(TraceParent::from_parts(1, 1, 0).is_some());
}
