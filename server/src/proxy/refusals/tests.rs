use super::*;

fn refused(n: usize) -> Refused {
    let host = [HeaderName::from_static("host")];
    let failed = ("signature", format!("wrong {n}"));
    Refused { bytes: n as u64, ..Refused::new(&SourceName::default(), failed, 401, &host, Some(b"{}")) }
}

#[test]
fn equal_refusals_are_counted_and_the_newest_come_first() {
    let (activity, app): (_, AppId) = (Activity::default(), "bot".parse().unwrap());
    for n in [1, 2, 1, 1] {
        activity.refused(&app, refused(n));
    }
    let found: Vec<_> =
        activity.refusals(&app).into_iter().map(|refusal| (refusal.detail, refusal.count)).collect();
    assert_eq!(found, [("wrong 1".to_owned(), 3), ("wrong 2".to_owned(), 1)]);
    let older = Refused { detail: "1 s older".into(), ..refused(2) };
    activity.refused(&app, older);
    let newest = &activity.refusals(&app)[0];
    assert_eq!((newest.detail.as_str(), newest.count), ("1 s older", 2), "the age may differ");
}

#[test]
fn the_times_of_an_app_are_bounded() {
    let (activity, app): (_, AppId) = (Activity::default(), "bot".parse().unwrap());
    let sources: Vec<SourceName> = (0..100).map(|n| format!("s-{n}").parse().unwrap()).collect();
    for source in &sources {
        activity.accepted(&app, source);
    }
    assert!(activity.times(&app, &sources[99]).accepted.is_some());
    assert_eq!(activity.0.lock().times[&app].len(), MAX_SOURCES);
    for n in 0..100 {
        let source = format!("unknown-{n}").parse().unwrap();
        activity.refused(&app, Refused { source, check: UNKNOWN_SOURCE, ..refused(n) });
    }
    assert!(activity.times(&app, &sources[99]).accepted.is_some(), "unknown sources have no times");
}

#[test]
fn a_flood_of_one_source_keeps_the_refusals_of_the_others() {
    let (activity, app): (_, AppId) = (Activity::default(), "bot".parse().unwrap());
    let of_source = |source: &str, n| Refused { source: source.parse().unwrap(), ..refused(n) };
    let count = |source: &str| {
        activity.refusals(&app).iter().filter(|refusal| refusal.source.as_str() == source).count()
    };
    for n in 0..3 {
        activity.refused(&app, of_source("quiet", n));
    }
    for n in 0..2 * MAX_PER_APP {
        activity.refused(&app, of_source("flooded", n));
    }
    assert_eq!((count("quiet"), count("flooded")), (3, MAX_PER_APP - 3));
    for n in 0..2 * MAX_PER_APP {
        activity.refused(&app, of_source("flooded-too", n));
    }
    assert_eq!(activity.refusals(&app).len(), MAX_PER_APP);
    assert_eq!(count("quiet"), 3);
    assert!(count("flooded").abs_diff(count("flooded-too")) <= 1);
}

#[test]
fn refusals_are_bounded_per_app_and_in_all_and_forgotten_with_their_app() {
    let activity = Activity::default();
    let apps: Vec<AppId> = (0..600).map(|n| format!("app-{n}").parse().unwrap()).collect();
    for app in &apps {
        for n in 0..MAX_PER_APP + 5 {
            activity.refused(app, refused(n));
        }
    }
    let last = activity.refusals(&apps[599]);
    assert_eq!((last.len(), last[0].detail.as_str()), (MAX_PER_APP, "wrong 104"));
    assert!(activity.refusals(&apps[0]).is_empty(), "evicted for the others");
    assert!(activity.0.lock().bytes <= MAX_BYTES);
    for app in &apps {
        activity.forget(app, None);
    }
    let state = activity.0.lock();
    assert_eq!((state.bytes, state.refusals.len(), state.apps.len(), state.times.len()), (0, 0, 0, 0));
}
