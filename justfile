# What people do daily. `just` lists the recipes; each is one command, which can be typed as well.

_list:
    @just --list --unsorted

# Run the suite here, with HTTP, gRPC and emulated AWS; `just run --help` lists its options.
run *arguments:
    cargo run -p local -- {{arguments}}

# Run the tests, or those whose names hold a word: `just test outage::`.
test *words:
    cargo test --workspace --locked -- {{words}}

# Format the code, and check it as the gate does.
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Check what has to hold before a change goes in, or some of it: `just gate shellcheck template`.
gate *steps:
    .ci/run {{steps}}

# Run the proofs that are too slow for every change, once an issue: `just full attack`.
full *steps:
    .ci/full {{steps}}

# Break the code on purpose and see a test notice it; `just defects --check` only fits the defects.
defects *words:
    .ci/defects {{words}}

# Explore the model of the protocol in its larger sizes.
model:
    cargo model

# Measure the release binaries as Lambda runs them.
bench *arguments:
    cargo run --release --locked -p bench -- {{arguments}}

# Build the reference of the code, and open it.
docs:
    cargo doc --workspace --no-deps --open
