//! How a function's code is started and spoken to inside a sandbox.
