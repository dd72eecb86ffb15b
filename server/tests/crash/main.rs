//! Crash tests: the server is killed, the power is cut, the disk fails, the files are damaged. Answered events must survive.

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod kill;
mod ledger;
mod load;
mod random;

// The simulated disk is loaded into the server with LD_PRELOAD, and needs a C compiler.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod disk;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod faults;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod fence;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod fixture;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod fsync;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod image;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod model;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod power;

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
#[test]
#[ignore = "the simulated disk needs Linux with glibc, and a C compiler"]
fn power_cuts_and_faults_of_the_disk() {}
