//! The swarm's tests: single decisions with their exact effects, and small worlds that must finish.

mod decisions;
mod world;
mod worlds;
