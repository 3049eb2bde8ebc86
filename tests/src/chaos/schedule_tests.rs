use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn of(track: Track, planned: &[Planned]) -> Vec<Planned> {
    planned.iter().filter(|planned| planned.fault.kind.track() == track).copied().collect()
}

proptest! {
    #[test]
    fn every_kind_appears_in_five_minutes_and_more(seed: u64, minutes in EVERY_KIND_MINUTES..60) {
        let kinds: BTreeSet<Kind> = plan(seed, minutes).iter().map(|planned| planned.fault.kind).collect();
        prop_assert_eq!(kinds, BTreeSet::from(Kind::ALL));
    }

    #[test]
    fn there_is_a_kill_for_every_minute(seed: u64, minutes in 1_u64..60) {
        let planned = plan(seed, minutes);
        let kills = planned.iter().filter(|planned| planned.fault.kind == Kind::ServiceKill).count() as u64;
        prop_assert!(kills >= minutes, "{kills} in {minutes} minutes");
        // Below that there is no room for more beside one of every kind.
        prop_assert!(minutes < 3 || kills >= 4 * minutes, "{kills} in {minutes} minutes");
    }

    #[test]
    fn a_minute_has_faults_of_every_track(seed: u64) {
        let planned = plan(seed, 1);
        for track in Track::ALL {
            prop_assert!(!of(track, &planned).is_empty(), "{track:?}");
        }
    }

    #[test]
    fn a_seed_replays_its_schedule_and_another_has_its_own(seed: u64, minutes in 1_u64..20) {
        prop_assert_eq!(plan(seed, minutes), plan(seed, minutes));
        prop_assert_ne!(plan(seed, minutes), plan(seed.wrapping_add(1), minutes));
    }

    #[test]
    fn a_fault_is_healed_before_its_tracks_next_one_and_before_the_end(seed: u64, minutes in 1_u64..30) {
        let planned = plan(seed, minutes);
        for track in Track::ALL {
            let mut free_from = MARGIN_MS;
            for planned in of(track, &planned) {
                prop_assert!(planned.at_ms >= free_from, "{planned:?} begins before {free_from}");
                prop_assert!(planned.slot_ms > planned.lasts_ms, "{planned:?} has no time to heal");
                free_from = planned.at_ms + planned.slot_ms;
            }
            prop_assert!(free_from + MARGIN_MS <= minutes * 60_000, "{track:?} heals at {free_from}");
        }
    }

    #[test]
    fn freezes_outlast_the_limits_that_they_are_named_for(seed: u64) {
        for Planned { lasts_ms, fault, .. } in plan(seed, 10) {
            match fault.kind {
                Kind::FreezePastSession => prop_assert!(lasts_ms > SESSION_TIMEOUT_MS),
                Kind::FreezePastPoll => prop_assert!(lasts_ms > MAX_POLL_INTERVAL_MS),
                _ => {}
            }
        }
    }

    #[test]
    fn a_schedule_that_was_kept_is_read_again(seed: u64) {
        let planned = plan(seed, 2);
        let text = serde_json::to_string(&planned).expect("JSON");
        let read: Vec<Planned> = serde_json::from_str(&text).expect("the same");
        prop_assert_eq!(planned, read);
    }
}

#[test]
fn the_schedule_of_a_seed_is_the_same_on_every_machine() {
    let first: Vec<(u64, Kind)> =
        plan(1, 5).iter().take(4).map(|planned| (planned.at_ms, planned.fault.kind)).collect();
    let wanted = [
        (3_049, Kind::GatewayTimeout),
        (3_227, Kind::DueTimesShifted),
        (3_894, Kind::ServiceKill),
        (7_340, Kind::Redelivery),
    ];
    assert_eq!(first, wanted);
}
