//! See [`spice_qmp_fuzz::server`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| spice_qmp_fuzz::server(data));
