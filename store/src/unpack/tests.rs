//! Bundles that are in order, and every way in which one is refused.
