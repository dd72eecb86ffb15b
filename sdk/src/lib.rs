//! The async client of wwproxy.
