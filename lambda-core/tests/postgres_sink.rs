//! temporary
#[path = "postgres/model.rs"]
mod model;
#[path = "postgres/subject.rs"]
mod subject;
use lambda_core::postgres::{DatabaseConfig, connect, migrate::migrate};
use lambda_core::testing::sink::CASES;

#[tokio::test]
async fn conforms() {
    let admin = DatabaseConfig::from_url(&std::env::var("PGURL").unwrap()).unwrap();
    let c = connect(&admin, "t").await.unwrap();
    for (i, (promise, case)) in CASES.iter().enumerate() {
        eprintln!("{promise}");
        let name = format!("conf{}_{i}", std::process::id());
        c.batch_execute(&format!("create database {name}")).await.unwrap();
        let config = admin.with_database(&name);
        migrate(&config).await.unwrap();
        let s = subject::Postgres::new(&config, 2).await;
        case(&s).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn model() {
    let admin = DatabaseConfig::from_url(&std::env::var("PGURL").unwrap()).unwrap();
    let c = connect(&admin, "t").await.unwrap();
    let name = format!("model{}", std::process::id());
    c.batch_execute(&format!("create database {name} template template0 encoding 'UTF8' locale_provider icu icu_locale 'en-US'")).await.unwrap();
    let config = admin.with_database(&name);
    migrate(&config).await.unwrap();
    model::outcomes_follow_from_a_serial_order(config).await;
}
