//! Decoding database records from a corrupted file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|record: &[u8]| wwproxy_server::store::fuzz_record(record));
