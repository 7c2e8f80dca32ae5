//! The example of a custom record type does what it claims.

#[expect(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/own_record.rs"]
mod own_record;

use lambda_core::outcome::Outcome;

#[tokio::test]
async fn a_message_and_a_row_of_the_same_reading_are_one_row()
-> Result<(), Box<dyn std::error::Error>> {
    let counts = own_record::run().await?;
    assert_eq!((counts.read, counts[Outcome::Inserted], counts[Outcome::Duplicate]), (2, 1, 1));
    Ok(())
}
