//! Wishes and ways, on settings in memory.
