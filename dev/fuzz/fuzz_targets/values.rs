//! `tenantry_fuzz::values` under libFuzzer, which brings the `main` function.
#![cfg_attr(fuzzing, no_main)]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = tenantry_fuzz::values::check(input);
});

#[cfg(not(fuzzing))]
fn main() {}
