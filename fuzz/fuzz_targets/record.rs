//! The engine's records, as a damaged file may hold them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|record: &[u8]| wwproxy_server::store::fuzz_record(record));
