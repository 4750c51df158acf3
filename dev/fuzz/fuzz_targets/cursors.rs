//! `tenantry_fuzz::cursors` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = tenantry_fuzz::cursors::check(input);
});
