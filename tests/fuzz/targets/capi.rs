// SPDX-License-Identifier: MIT OR Apache-2.0
//! See [`spice_qmp_fuzz::capi`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| spice_qmp_fuzz::capi(data));
