//! `tenantry_fuzz::requests` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = tenantry_fuzz::requests::check(input);
});
