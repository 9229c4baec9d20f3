//! Carries out a decision: rewrites the frame for a worker, or into an answer to its sender.

mod answer;
mod checksum;
mod l2;

pub use answer::{ANSWER_LEN, ANSWER_TTL, answer};
pub use l2::to_worker;
