//! Helpers shared by the tests that need a mount.
