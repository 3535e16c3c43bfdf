//! The time of what is done once per event: `cargo bench -p benches --bench functions`.

#![allow(missing_docs, reason = "a bench")]

use benches::functions::FUNCTIONS;
use criterion::{Criterion, criterion_group, criterion_main};

fn functions(criterion: &mut Criterion) {
    for (name, ready) in FUNCTIONS {
        let mut call = ready();
        criterion.bench_function(name, |bencher| bencher.iter(&mut call));
    }
}

criterion_group!(benches, functions);
criterion_main!(benches);
