//! The processor by its surface.
