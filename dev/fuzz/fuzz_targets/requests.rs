//! `tenantry_fuzz::requests` under libFuzzer, which brings the `main` function.
#![cfg_attr(fuzzing, no_main)]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = tenantry_fuzz::requests::check(input);
});

#[cfg(not(fuzzing))]
fn main() {}
