//! What the engine promises, against a model.
