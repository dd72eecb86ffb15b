//! What every store has to do: one suite that each engine runs, and what only the durable one promises.
//!
//! Times are real, as an engine has threads and a clock of its own. A test never waits for a state by
//! sleeping: it waits in the store, or asks again until a deadline. What lasts [`LONG`](fixture::LONG)
//! lasts longer than any test.

mod append;
mod dedupe;
mod durable;
mod fixture;
mod lease;
mod limits;
mod registration;
mod settle;
mod tap;
mod wait;

/// Each test of the suite, for each engine.
macro_rules! contract {
    ($($room:ident: $($test:ident),+;)+) => {
        mod memory {
            $(mod $room {
                use std::sync::Arc;
                use wwproxy_server::store::MemoryStore;

                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    crate::$room::$test(&|limits| Arc::new(MemoryStore::new(limits))).await;
                })+
            })+
        }

        mod redb {
            $(mod $room {
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
                    crate::$room::$test(&open).await;
                })+
            })+
        }
    };
}

contract! {
    append:
        an_event_comes_back_as_it_was,
        events_come_in_order_of_arrival,
        ids_are_unique_and_ascend,
        simultaneous_appends_come_in_order_of_their_ids,
        apps_do_not_see_each_other,
        figures_follow_what_is_stored,
        a_large_event_is_stored;
    dedupe:
        a_repetition_is_stored_once,
        an_accepted_event_is_not_stored_again,
        a_repetition_is_known_for_the_window,
        another_apps_delivery_is_another,
        a_new_registration_knows_no_deliveries,
        a_replaced_registration_knows_its_deliveries,
        of_simultaneous_repetitions_one_is_stored,
        a_refused_event_is_taken_when_it_comes_again;
    lease:
        a_leased_event_is_nobody_elses,
        a_lease_takes_no_more_events_than_asked,
        a_lease_takes_no_more_bytes_than_asked_but_one_event,
        attempts_are_counted,
        what_was_not_settled_comes_again_in_order,
        a_dropped_lease_hands_back_and_does_not_count,
        an_empty_queue_gives_nothing;
    limits:
        a_full_queue_refuses,
        a_long_queue_is_as_a_short_one,
        a_queue_is_full_by_bytes,
        an_event_larger_than_the_queue_is_refused,
        the_oldest_makes_room,
        several_make_room_for_a_large_one,
        a_leased_event_is_dropped_last,
        where_all_are_leased_the_oldest_is_dropped,
        an_event_whose_lease_is_over_is_the_oldest_again,
        simultaneous_appends_never_pass_the_limit,
        simultaneous_appends_make_room_for_each_other,
        an_old_event_is_dropped,
        an_old_event_is_kept_while_it_is_leased,
        an_old_event_is_dropped_when_its_lease_is_over;
    registration:
        nothing_is_stored_for_an_unknown_app,
        a_registration_comes_back_as_it_was,
        a_replaced_registration_keeps_its_events,
        unregistering_deletes_everything,
        unregistering_leaves_other_apps_alone,
        an_append_beside_unregistering_leaves_nothing_behind;
    settle:
        an_accepted_event_is_gone,
        a_receipt_is_good_once,
        a_receipt_ends_with_its_lease,
        an_earlier_receipt_does_not_end_a_later_lease,
        another_apps_receipt_is_stale,
        garbage_is_stale,
        a_released_event_goes_out_again_before_newer_ones,
        a_delayed_release_keeps_its_delay,
        accepted_and_released_at_once;
    tap:
        a_tap_sees_what_is_stored_from_now_on,
        a_tap_sees_the_event_that_a_lease_hands_out,
        a_tap_takes_nothing,
        one_event_wakes_a_lease_and_a_tap,
        what_is_not_stored_is_not_shown,
        what_made_room_again_was_shown,
        every_tap_sees_all_in_order_of_arrival,
        what_a_tap_does_not_take_in_time_is_a_gap_in_its_place,
        a_gap_stands_between_the_events_around_it,
        one_event_is_shown_however_large,
        an_app_has_so_many_taps_and_a_dropped_one_makes_room,
        a_tap_that_stops_waiting_loses_nothing,
        a_tap_survives_unregistering;
    wait:
        a_wait_ends_empty,
        a_wait_ends_with_an_append,
        a_wait_ends_with_a_release,
        a_wait_ends_with_a_delayed_release,
        a_wait_ends_with_anothers_lease,
        a_wait_survives_unregistering,
        every_waiter_is_woken,
        a_waiter_that_goes_wakes_the_next,
        a_waiter_that_gives_up_tells_the_next_of_a_lease,
        a_waiter_that_goes_tells_the_next_of_a_lease,
        many_waiters_share_many_events;
}
