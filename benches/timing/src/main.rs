//! Does the time of comparing signatures tell anything about them? Welch's t-test over two classes of headers, after
//! dudect (Reparaz, Balasch, Verbauwhede 2017): |t| above 5 would say yes, and grow with the number of samples.
//!
//! What is measured is what ingest calls for each request once the body is there: `verify_any` over the MACs of every
//! active secret, with the signatures of the header. `early_exit` is the control: a comparison that ends at the first
//! difference, which must be found out.

use common::signature::{MAC_LEN, Signatures, verify_any};
use dudect_bencher::rand::RngExt;
use dudect_bencher::{BenchRng, Class, CtRunner, ctbench_main};

/// A source with as many secrets as it may have, and a header with as many signatures.
const SECRETS: usize = 5;
const SAMPLES: usize = 1_000_000;

type Macs = [[u8; MAC_LEN]; SECRETS];

fn macs(rng: &mut BenchRng) -> Macs {
    std::array::from_fn(|_| std::array::from_fn(|_| rng.random()))
}

/// A header that shows these.
fn header(shown: &Macs) -> Signatures {
    let hex = |mac: &[u8; MAC_LEN]| mac.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Signatures::parse(shown.each_ref().map(hex).join(",").as_bytes()).expect("five signatures")
}

/// What differs from the right ones in one byte of each.
fn wrong_at(right: &Macs, place: usize) -> Macs {
    right.map(|mut mac| {
        mac[place] ^= 0x55;
        mac
    })
}

/// Times `compare` on headers of two classes, in random order.
fn run(runner: &mut CtRunner, rng: &mut BenchRng, classes: [fn(&Macs) -> Macs; 2], compare: fn(&Macs, &Signatures) -> Option<usize>) {
    let right = macs(rng);
    let mut inputs = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let class = usize::from(rng.random::<bool>());
        inputs.push((if class == 0 { Class::Left } else { Class::Right }, header(&classes[class](&right))));
    }
    for (class, signatures) in inputs {
        runner.run_one(class, || compare(&right, &signatures));
    }
}

fn ours(macs: &Macs, signatures: &Signatures) -> Option<usize> {
    verify_any(macs, signatures)
}

/// Wrong in the first byte against wrong in the last.
fn first_byte_or_last(runner: &mut CtRunner, rng: &mut BenchRng) {
    run(runner, rng, [|right| wrong_at(right, 0), |right| wrong_at(right, MAC_LEN - 1)], ours);
}

/// Right against wrong in the first byte.
fn right_or_wrong(runner: &mut CtRunner, rng: &mut BenchRng) {
    run(runner, rng, [|right| *right, |right| wrong_at(right, 0)], ours);
}

/// The control.
fn early_exit(runner: &mut CtRunner, rng: &mut BenchRng) {
    let compare = |macs: &Macs, signatures: &Signatures| {
        macs.iter().position(|mac| signatures.as_slice().iter().any(|shown| mac.iter().zip(shown).all(|(a, b)| a == b)))
    };
    run(runner, rng, [|right| wrong_at(right, 0), |right| wrong_at(right, MAC_LEN - 1)], compare);
}

ctbench_main!(first_byte_or_last, right_or_wrong, early_exit);
