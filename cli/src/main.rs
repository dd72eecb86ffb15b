//! The command line of wwproxy.

fn main() {}
