//! `tenantry_fuzz::keys` under libFuzzer, which brings the `main` function.
#![cfg_attr(fuzzing, no_main)]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = tenantry_fuzz::keys::check(input);
});

#[cfg(not(fuzzing))]
fn main() {}
