//! The device server as the daemon sees it: a CDB in; a plan, data or sense out.

mod alua;
mod atomic;
mod attention;
mod bed;
mod block;
mod conformance;
mod copy;
mod erase;
mod identity;
mod logs;
mod mode;
mod primary;
mod random;
mod reservation;
mod table;
mod thresholds;
mod well_known;
