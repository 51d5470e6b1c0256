//! Targets as initiators meet them: what they may see, their sessions, and the tasks of each.

mod answer;
mod capacity;
mod management;
pub mod session;
pub mod sessions;
pub mod view;
