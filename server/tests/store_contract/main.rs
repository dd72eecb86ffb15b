//! The store contract: one suite that runs against every engine, and tests of durability for `RedbStore`.
//!
//! Time is not paused, because an engine has its own threads and clock. A test never waits for a state by sleeping: it
//! waits in the store, or polls until a deadline. [`LONG`](fixture::LONG) is longer than any test.

mod append;
mod dedupe;
mod durable;
mod fixture;
mod lease;
mod limits;
mod registration;
mod settle;
#[path = "../common/store.rs"]
mod store;
mod tap;
mod wait;

/// Generates each test of the suite for each engine.
macro_rules! contract {
    ($($module:ident: $($test:ident),+;)+) => {
        mod memory {
            $(mod $module {
                use std::sync::Arc;
                use wwproxy_server::store::MemoryStore;

                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    crate::$module::$test(&|limits| Arc::new(MemoryStore::new(limits))).await;
                })+
            })+
        }

        mod redb {
            $(mod $module {
                use std::sync::Arc;
                use wwproxy_server::store::RedbStore;

                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let folder = tempfile::tempdir().unwrap();
                    let open = |limits| {
                        let store: Arc<dyn wwproxy_server::store::Store> =
                            Arc::new(RedbStore::open(folder.path(), limits).unwrap());
                        store
                    };
                    crate::$module::$test(&open).await;
                })+
            })+
        }
    };
}

contract! {
    append:
        an_event_is_delivered_unchanged,
        events_are_delivered_in_order_of_arrival,
        ids_are_unique_and_ascend,
        concurrent_appends_are_delivered_in_id_order,
        apps_are_isolated,
        stats_follow_appends_leases_and_settlements,
        a_large_event_is_stored;
    dedupe:
        a_duplicate_is_stored_once,
        a_duplicate_of_an_acknowledged_event_is_not_stored,
        a_duplicate_is_detected_within_the_dedupe_window,
        dedupe_keys_are_per_app,
        unregistering_forgets_dedupe_keys,
        replacing_a_registration_keeps_dedupe_keys,
        one_of_concurrent_duplicates_is_stored,
        a_rejected_event_is_stored_when_it_is_retried;
    lease:
        a_leased_event_is_not_leased_again,
        a_lease_respects_max_events,
        a_lease_respects_max_bytes_but_has_at_least_one_event,
        delivery_attempts_are_counted,
        unsettled_events_are_redelivered_in_order,
        dropping_a_lease_future_releases_its_events_without_an_attempt,
        an_empty_queue_leases_nothing;
    limits:
        a_full_queue_rejects_appends,
        a_long_queue_behaves_like_a_short_one,
        max_queued_bytes_limits_a_queue,
        an_event_larger_than_the_queue_is_rejected,
        drop_oldest_drops_the_oldest_event,
        drop_oldest_drops_several_events_for_a_large_one,
        leased_events_are_dropped_last,
        if_all_events_are_leased_the_oldest_is_dropped,
        an_event_with_an_expired_lease_is_dropped_as_the_oldest,
        concurrent_appends_never_exceed_the_limit,
        concurrent_appends_drop_the_oldest_events,
        an_event_past_retention_is_dropped,
        an_event_past_retention_is_kept_while_leased,
        an_event_past_retention_is_dropped_when_its_lease_expires;
    registration:
        an_append_for_an_unregistered_app_is_rejected,
        a_registration_is_returned_unchanged,
        replacing_a_registration_keeps_the_events,
        unregistering_purges_the_queue,
        unregistering_does_not_affect_other_apps,
        an_append_concurrent_with_unregistering_leaves_no_event,
        an_append_of_a_replaced_source_is_rejected,
        replacing_a_source_rejects_no_append_of_another,
        no_append_of_a_replaced_source_is_stored_after_the_replacement;
    settle:
        an_acknowledged_event_is_deleted,
        a_receipt_settles_once,
        a_receipt_is_stale_after_its_lease_expired,
        an_earlier_receipt_does_not_settle_a_later_lease,
        another_apps_receipt_is_stale,
        an_invalid_receipt_is_stale,
        a_released_event_is_redelivered_before_newer_events,
        nacked_events_alternate_with_fresh_ones,
        a_nacked_event_is_redelivered_after_its_delay,
        acks_are_settled_before_releases;
    tap:
        a_tap_receives_events_stored_after_it_opened,
        a_tap_receives_the_same_event_as_a_lease,
        a_tap_leases_nothing,
        one_event_wakes_a_lease_and_a_tap,
        a_tap_receives_stored_events_only,
        a_tap_receives_events_that_are_dropped_later,
        every_tap_receives_all_events_in_order,
        a_slow_tap_misses_events_without_backpressure,
        a_gap_is_reported_in_its_place,
        a_tap_buffers_one_event_of_any_size,
        taps_per_app_are_limited_and_a_dropped_tap_frees_its_slot,
        cancelling_a_tap_wait_loses_no_event,
        a_tap_survives_unregistering;
    wait:
        a_waiting_lease_times_out,
        an_append_wakes_a_waiting_lease,
        a_release_wakes_a_waiting_lease,
        a_delayed_release_wakes_a_waiting_lease,
        an_expired_lease_wakes_waiting_leases,
        a_waiting_lease_survives_unregistering,
        every_waiter_is_woken,
        a_cancelled_waiter_passes_its_wakeup_on,
        a_timed_out_waiter_passes_the_lease_expiry_on,
        a_cancelled_waiter_passes_the_lease_expiry_on,
        concurrent_waiters_lease_each_event_once;
}
