//! Real nodes and a real broker in network namespaces of their own. Each test runs itself again
//! inside (`warren_lab::isolated`); no root is needed.

mod common;
mod days;
mod edge;
mod mesh;
mod relay;
