//! Looks at the cluster now and then, and remembers the last half hour for the charts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use common::shutdown::Group;
use processor::config::Config;
use serde::Serialize;

use crate::cluster::{Cluster, View, added};

/// Points that are remembered: half an hour of them, one every two seconds.
const POINT_COUNT_MAX: usize = 900;

/// What is shown now. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Live(Arc<RwLock<Shown>>);

#[derive(Default)]
struct Shown {
    view: Option<Arc<View>>,
    points: VecDeque<Point>,
}

/// One point of every chart. Rates per second, times in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Point {
    at_ms: u64,
    /// Requests that were answered 200.
    received: f64,
    /// Requests that ended otherwise, but for those of balancers.
    refused: f64,
    delivered: f64,
    repeats: f64,
    failed: f64,
    dead: f64,
    request_p50: Option<f64>,
    request_p99: Option<f64>,
    /// Of the slowest sink.
    age_p50: Option<f64>,
    age_p99: Option<f64>,
    /// By group, all its topics together.
    lag: BTreeMap<String, u64>,
}

impl Point {
    fn of(view: &View) -> Self {
        let requests = view.edge.requests.iter();
        let rate = |is: fn(&str) -> bool| {
            added(requests.clone().filter(|(outcome, _)| is(outcome)).map(|(_, count)| count.rate))
        };
        let records = |outcome: &str| {
            let of_sinks = view.sinks.iter().filter_map(|sink| sink.records.get(outcome));
            added(of_sinks.chain(view.router.get(outcome)).map(|count| count.rate))
        };
        let slowest = |of: fn(&crate::cluster::view::Quantiles) -> Option<f64>| {
            view.sinks.iter().filter_map(|sink| of(&sink.age_seconds)).max_by(f64::total_cmp)
        };
        let mut lag = BTreeMap::new();
        for group in view.groups.iter().flatten() {
            *lag.entry(group.group.clone()).or_default() += group.lag;
        }
        Self {
            at_ms: view.at_ms,
            received: rate(|outcome| outcome == "received"),
            refused: rate(|outcome| !matches!(outcome, "received" | "healthy" | "not_ready")),
            delivered: records("delivered"),
            repeats: records("repeat"),
            failed: added(view.sinks.iter().flat_map(|sink| sink.failures.values()).map(|count| count.rate)),
            dead: records("dead"),
            request_p50: view.edge.request_seconds.p50,
            request_p99: view.edge.request_seconds.p99,
            age_p50: slowest(|quantiles| quantiles.p50),
            age_p99: slowest(|quantiles| quantiles.p99),
            lag,
        }
    }
}

impl Live {
    /// Looks until the group is cancelled.
    pub(super) fn start(group: &Group, cluster: Cluster, config: Arc<Config>, interval: Duration) -> Self {
        let (live, token) = (Self::default(), group.token());
        let shown = live.clone();
        group.spawn("cluster", async move {
            let mut before = None;
            let looking = async {
                loop {
                    let after = cluster.look().await;
                    shown.show(View::between(before.as_ref(), &after, &config));
                    before = Some(after);
                    tokio::time::sleep(interval).await;
                }
            };
            token.run_until_cancelled(looking).await.unwrap_or(())
        });
        live
    }

    /// Shows a view from now on.
    pub(super) fn show(&self, view: View) {
        let mut shown = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Without an earlier look nothing has a rate, and a chart would begin with a dip.
        if view.has_rates {
            if shown.points.len() >= POINT_COUNT_MAX {
                shown.points.pop_front();
            }
            shown.points.push_back(Point::of(&view));
        }
        shown.view = Some(Arc::new(view));
    }

    /// The view, if there is one yet, and the points after a time.
    pub(super) fn since(&self, after_ms: u64) -> (Option<Arc<View>>, Vec<Point>) {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (shown.view.clone(), shown.points.iter().filter(|point| point.at_ms > after_ms).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::sample;

    #[test]
    fn a_point_sums_up_a_view() {
        let point = Point::of(&sample());
        assert_eq!((point.received, point.refused, point.failed), (10.0, 0.0, 0.0));
        assert_eq!(point.lag["sealstream.deliver.main"], 3400);
        assert!(point.request_p50.is_some() && point.age_p50.is_none());
    }

    #[test]
    fn the_last_half_hour_is_remembered() {
        let live = Live::default();
        live.show(View { has_rates: false, ..sample() });
        assert_eq!(live.since(0).1, [], "the first look has no rates");
        for at_ms in 1..=POINT_COUNT_MAX as u64 + 5 {
            live.show(View { at_ms, ..sample() });
        }
        let times = |after| live.since(after).1.iter().map(|point| point.at_ms).collect::<Vec<_>>();
        assert_eq!((times(0).len(), times(0)[0]), (POINT_COUNT_MAX, 6));
        assert_eq!(times(903), [904, 905]);
        assert_eq!(live.since(0).0.unwrap().at_ms, 905);
    }
}
