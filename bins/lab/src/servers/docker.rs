//! Checks for a Docker engine, and removes containers whose process is gone.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use testcontainers_modules::testcontainers::bollard::Docker;
use testcontainers_modules::testcontainers::bollard::query_parameters::{
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::Failure;
use crate::servers::owner::{OWNER, host};

/// If set to 1, a missing Docker engine is an error, and nothing replaces it.
pub const REQUIRE: &str = "LAMBDA_TEST_REQUIRE_DOCKER";

/// Whether a missing Docker engine is an error.
pub fn required() -> bool {
    std::env::var(REQUIRE).is_ok_and(|value| value == "1")
}

/// Whether a Docker engine answers. The first call also removes containers of
/// ours whose process is gone.
///
/// # Errors
/// When none answers although [`REQUIRE`] is set.
pub async fn available() -> Result<bool, Failure> {
    static ENGINE: OnceCell<bool> = OnceCell::const_new();
    let found = *ENGINE
        .get_or_init(async || match engine().await {
            Some(engine) => {
                remove_stale(&engine).await;
                true
            }
            None => false,
        })
        .await;
    if !found && required() {
        return Err(format!("{REQUIRE}=1, but no Docker engine answers").into());
    }
    Ok(found)
}

async fn engine() -> Option<Docker> {
    let engine = Docker::connect_with_defaults().ok()?;
    timeout(Duration::from_secs(5), engine.ping()).await.ok()?.ok()?;
    Some(engine)
}

async fn remove_stale(engine: &Docker) {
    let filters = HashMap::from([("label", vec![OWNER])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    for container in engine.list_containers(Some(options)).await.unwrap_or_default() {
        let labels = container.labels.unwrap_or_default();
        let stale = labels.get(OWNER).is_some_and(|owner| !alive(owner));
        if let (true, Some(id)) = (stale, container.id) {
            tracing::info!(container = id, "removing a container whose owner is gone");
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            let _ = engine.remove_container(&id, Some(options)).await;
        }
    }
}

/// Whether the process named by an owner's label still runs. Processes of other hosts count
/// as running.
fn alive(owner: &str) -> bool {
    match owner.strip_prefix(&format!("{}.", host())) {
        Some(pid) => Path::new("/proc").join(pid).exists(),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::owner::owner;

    #[test]
    fn an_owner_is_alive_as_long_as_its_process() {
        assert!(alive(&owner()));
        assert!(!alive(&format!("{}.4194999", host())));
        assert!(alive("another-host.1"));
    }
}
