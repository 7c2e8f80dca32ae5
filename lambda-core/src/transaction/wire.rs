//! The external forms of a transaction: a JSON object or a CSV row.

use serde::ser::{Error, Serialize, SerializeStruct, Serializer};
use serde_json::value::RawValue;

use super::Transaction;

/// The header line of a CSV file, without its line end.
pub const CSV_HEADER: &str = "transaction_id,account_id,transaction_type,amount,timestamp,\
merchant_category,location,card_present,risk_score";

impl Serialize for Transaction {
    /// Writes the JSON object of the topic; amounts are exact JSON numbers.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = |text: String| RawValue::from_string(text).map_err(S::Error::custom);
        let risk_score = self.risk_score.map(|score| number(score.to_string())).transpose()?;
        let mut object = serializer.serialize_struct("Transaction", 9)?;
        object.serialize_field("transaction_id", &self.transaction_id)?;
        object.serialize_field("account_id", &self.account_id)?;
        object.serialize_field("transaction_type", &self.transaction_type)?;
        object.serialize_field("amount", &number(self.amount.to_string())?)?;
        object.serialize_field("timestamp", &self.timestamp.to_string())?;
        object.serialize_field("merchant_category", &self.merchant_category)?;
        object.serialize_field("location", &self.location)?;
        object.serialize_field("card_present", &self.card_present)?;
        object.serialize_field("risk_score", &risk_score)?;
        object.end()
    }
}

impl Transaction {
    /// Builds the JSON object of the topic.
    pub fn to_json(&self) -> Vec<u8> {
        // This cannot fail: maps have only text keys, numbers are finite, and a buffer
        // accepts any bytes.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Appends the CSV row under [`CSV_HEADER`], without a line end.
    pub fn write_csv(&self, out: &mut Vec<u8>) {
        put_row(out, &self.texts());
    }

    /// The text of each field, in the order of [`CSV_HEADER`]; null is empty.
    pub(super) fn texts(&self) -> [String; 9] {
        let optional = |text: &Option<String>| text.clone().unwrap_or_default();
        [
            self.transaction_id.clone(),
            self.account_id.clone(),
            self.transaction_type.clone(),
            self.amount.to_string(),
            self.timestamp.to_string(),
            optional(&self.merchant_category),
            optional(&self.location),
            self.card_present.map(|present| present.to_string()).unwrap_or_default(),
            self.risk_score.map(|score| score.to_string()).unwrap_or_default(),
        ]
    }
}

/// Appends fields as a CSV row, without a line end.
pub(super) fn put_row(out: &mut Vec<u8>, fields: &[String]) {
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_csv(out, field);
    }
}

/// Appends a field, quoted where RFC 4180 requires it.
fn put_csv(out: &mut Vec<u8>, field: &str) {
    if field.contains([',', '"', '\r', '\n']) {
        out.push(b'"');
        out.extend(field.replace('"', "\"\"").bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(field.as_bytes());
    }
}
