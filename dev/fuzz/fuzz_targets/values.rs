//! `tenantry_fuzz::values` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = tenantry_fuzz::values::check(input);
});
