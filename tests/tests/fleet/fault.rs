//! What happens to a fleet, in a sequence that a seed determines.

use std::time::Duration;

use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use crate::HOSTS;

/// How long the faults of a step last, in each round. The last one exceeds all timeouts of the bus.
const OUTAGES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(7),
];

/// How long hosts reach the former master after a failover.
const FAILOVER: Duration = Duration::from_millis(500);

/// A fault. Hosts are named by their index.
///
/// When several end, they end in this order: a host cannot start without Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Redis is killed, and started again with its data.
    RestartRedis,
    /// Redis does not run, and its connections stay open.
    StallRedis,
    /// The replica is promoted. The hosts still reach the former master for a while.
    Failover,
    /// Redis closes the connections with subscriptions.
    KillSubscribers,
    /// The connections of a host to the bus forward nothing any more.
    StallBus(usize),
    /// A host is killed, and started again.
    KillHost(usize),
    /// A host shuts down, and is started again.
    StopHost(usize),
}

/// Faults that begin together.
#[derive(Clone, Debug)]
pub struct Step {
    /// In the order in which they begin.
    pub faults: Vec<Fault>,
    /// The time until they end.
    pub outage: Duration,
}

/// Returns steps in which each fault occurs once in every round: alone, or together with another one.
pub fn steps(seed: u64, rounds: usize) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut steps = Vec::new();
    for _ in 0..rounds {
        let mut hosts: [usize; HOSTS] = std::array::from_fn(|index| index);
        hosts.shuffle(&mut rng);
        let mut faults = [
            Fault::RestartRedis,
            Fault::StallRedis,
            Fault::KillSubscribers,
            Fault::StallBus(hosts[0]),
            Fault::KillHost(hosts[1]),
            Fault::StopHost(hosts[2]),
        ];
        faults.shuffle(&mut rng);
        let [a, b, c, d, e, f] = faults;
        let mut outages = OUTAGES;
        outages.shuffle(&mut rng);
        let groups = [vec![a], vec![b, c], vec![d], vec![e, f]];
        steps.extend(groups.into_iter().zip(outages).map(step));
        // On its own, since Redis must run for it.
        steps.push(step((vec![Fault::Failover], FAILOVER)));
    }
    steps
}

fn step((faults, outage): (Vec<Fault>, Duration)) -> Step {
    Step { faults, outage }
}
