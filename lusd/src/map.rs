//! The LUS map as this daemon lives by it: it registers, follows, and shows initiators what the map says.

pub mod leader;
pub mod reconcile;
pub mod register;
pub mod secrets;
pub mod view;
