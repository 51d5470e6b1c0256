//! Targets as initiators meet them: what they may see, how they show who they are, their sessions,
//! and the tasks of each.

pub(crate) mod answer;
pub mod authentication;
mod capacity;
pub mod group;
mod logins;
mod management;
mod order;
pub mod session;
pub mod sessions;
pub mod view;
