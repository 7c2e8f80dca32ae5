//! The laboratory: servers for tests and the demo, the test harness, processes under test,
//! generated input. Never published and in no image.

pub mod demo;
pub mod freeze;
pub mod generate;
#[cfg(feature = "tests")]
pub mod harness;
pub mod ledger;
pub mod liveness;
pub mod probe;
pub mod processes;
pub mod proxy;
pub mod servers;

/// Any error; a test or a demo only reports it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// An error with its causes on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(error) = error.downcast_ref::<lambda_core::Error>() {
        return error.chain();
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
