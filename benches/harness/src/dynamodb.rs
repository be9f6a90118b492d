//! The part of DynamoDB that the consumers use: every claim is granted and every write is made, but a row that is there
//! is not inserted. Also counts which requests of a batch followed each other.
//! Source: Amazon DynamoDB API reference.

use std::time::Instant;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::stub::{error, parse};

/// The table that the stub has claims in.
pub(crate) const LEDGER_TABLE: &str = "ledger";

/// The learners' table, in which every learner is new.
pub(crate) const LEARNERS_TABLE: &str = "learners";

/// A learners' table that has a row for every learner already.
pub(crate) const KNOWN_LEARNERS_TABLE: &str = "known-learners";

/// The table in which Powertools for AWS Lambda keeps what is in progress and what is done.
pub(crate) const IDEMPOTENCY_TABLE: &str = "idempotency";

/// DynamoDB refuses more statements in one request.
/// Source: Amazon DynamoDB API reference, `BatchExecuteStatement`.
const MOST_STATEMENTS: usize = 25;

/// One request, from its arrival until its answer.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// When it arrived.
    pub(crate) arrived: Instant,
    /// When its answer was about to be sent.
    pub(crate) answered: Instant,
    /// Its body.
    pub(crate) body: Vec<u8>,
}

impl Call {
    /// Whether it is about this message, or this table.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.body.windows(name.len()).any(|part| part == name.as_bytes())
    }

    /// What Powertools for AWS Lambda does with it in its table; `None` for another request.
    pub(crate) fn powertools_step(&self) -> Option<PowertoolsStep> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Request {
            table_name: String,
            item: Option<Entry>,
            key: Option<Entry>,
            update_expression: Option<IgnoredAny>,
        }

        #[derive(Deserialize)]
        struct Entry {
            id: Id,
        }

        #[derive(Deserialize)]
        struct Id {
            #[serde(rename = "S")]
            text: String,
        }

        let request = serde_json::from_slice::<Request>(&self.body).ok();
        let request = request.filter(|request| request.table_name == IDEMPOTENCY_TABLE)?;
        match (request.item, request.key, request.update_expression) {
            (Some(item), None, None) => Some(PowertoolsStep::Claim(item.id.text)),
            (None, Some(key), Some(_)) => Some(PowertoolsStep::Settle(key.id.text)),
            (None, Some(key), None) => Some(PowertoolsStep::Release(key.id.text)),
            _ => None,
        }
    }
}

/// A request of Powertools for AWS Lambda to its table, with the entry's id, which it derives from the idempotency
/// key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PowertoolsStep {
    /// `PutItem`: the work begins.
    Claim(String),
    /// `UpdateItem`: it is done.
    Settle(String),
    /// `DeleteItem`: it failed, and may begin again.
    Release(String),
}

/// How many sequential round trips these requests took: the length of the longest chain in which each arrived
/// after the previous one was answered.
pub(crate) fn round_trips(calls: &[Call]) -> usize {
    let mut calls: Vec<&Call> = calls.iter().collect();
    // Of all possible next requests, the one that is answered first leaves the most room for others.
    calls.sort_by_key(|call| call.answered);
    let mut chain: Vec<&Call> = Vec::new();
    for call in calls {
        if chain.last().is_none_or(|last| call.arrived > last.answered) {
            chain.push(call);
        }
    }
    chain.len()
}

/// The answer: a result, or an error.
pub(crate) fn answer(operation: &str, body: &[u8]) -> Result<Value, Value> {
    match operation {
        "BatchExecuteStatement" => batch_execute_statement(body),
        "UpdateItem" => Ok(json!({"Attributes": {}})),
        "DeleteItem" | "GetItem" | "PutItem" => Ok(json!({})),
        _ => Err(error("UnknownOperationException", operation)),
    }
}

fn batch_execute_statement(body: &[u8]) -> Result<Value, Value> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct BatchExecuteStatement {
        statements: Vec<Statement>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Statement {
        statement: String,
    }

    let response = |statement: &Statement| {
        if statement.statement.starts_with("INSERT") && statement.statement.contains(KNOWN_LEARNERS_TABLE) {
            json!({"Error": {"Code": "DuplicateItem", "Message": "Duplicate primary key exists in table"}})
        } else {
            json!({"TableName": LEDGER_TABLE})
        }
    };

    let request: BatchExecuteStatement = parse(body)?;
    match request.statements.len() {
        1..=MOST_STATEMENTS => {
            Ok(json!({"Responses": request.statements.iter().map(response).collect::<Vec<_>>()}))
        }
        _ => Err(error("ValidationException", "a batch has 1 to 25 statements")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Requests that arrived and were answered at these times, in milliseconds.
    fn calls<const N: usize>(times: [(u64, u64); N]) -> [Call; N] {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        times.map(|(arrived, answered)| Call {
            arrived: at(arrived),
            answered: at(answered),
            body: Vec::new(),
        })
    }

    #[test]
    fn requests_side_by_side_are_one_round_trip() {
        assert_eq!(round_trips(&calls([])), 0);
        assert_eq!(round_trips(&calls([(0, 10)])), 1);
        assert_eq!(round_trips(&calls([(0, 10), (1, 11), (9, 12)])), 1);
    }

    #[test]
    fn a_request_after_an_answer_is_one_round_trip_more() {
        assert_eq!(round_trips(&calls([(0, 10), (11, 20)])), 2);
        // Claims, concurrent writes, settlements; noted in any order.
        assert_eq!(round_trips(&calls([(31, 40), (12, 25), (11, 30), (0, 10), (13, 21)])), 3);
    }

    #[test]
    fn the_longest_chain_counts() {
        // One slow request beside two quick ones, which follow each other.
        assert_eq!(round_trips(&calls([(0, 100), (1, 10), (11, 20)])), 2);
        assert_eq!(round_trips(&calls([(0, 30), (5, 10), (12, 20), (25, 40), (35, 50), (45, 60)])), 4);
    }

    #[test]
    fn a_request_that_arrives_with_an_answer_did_not_wait_for_it() {
        assert_eq!(round_trips(&calls([(0, 10), (10, 20)])), 1);
    }

    #[test]
    fn every_statement_of_a_batch_has_its_response() {
        let request = json!({"Statements": [{"Statement": "INSERT"}, {"Statement": "INSERT"}]});
        assert_eq!(
            answer("BatchExecuteStatement", request.to_string().as_bytes()).unwrap(),
            json!({"Responses": [{"TableName": "ledger"}, {"TableName": "ledger"}]})
        );
    }

    #[test]
    fn a_row_that_is_there_is_updated_and_not_inserted() {
        let insert = format!("INSERT INTO \"{KNOWN_LEARNERS_TABLE}\"");
        let update = format!("UPDATE \"{KNOWN_LEARNERS_TABLE}\"");
        let request = json!({"Statements": [{"Statement": insert}, {"Statement": update}]});
        let answer = answer("BatchExecuteStatement", request.to_string().as_bytes()).unwrap();
        assert_eq!(answer["Responses"][0]["Error"]["Code"], "DuplicateItem");
        assert_eq!(answer["Responses"][1], json!({"TableName": "ledger"}));
    }

    #[test]
    fn a_batch_has_statements_but_not_too_many() {
        for count in [0, 26] {
            let request = json!({"Statements": vec![json!({"Statement": "INSERT"}); count]});
            let refused = answer("BatchExecuteStatement", request.to_string().as_bytes()).unwrap_err();
            assert_eq!(refused["__type"], "ValidationException");
        }
        let refused = answer("BatchExecuteStatement", b"{}").unwrap_err();
        assert_eq!(refused["__type"], "SerializationException");
    }

    #[test]
    fn single_writes_succeed_and_nothing_else_is_known() {
        assert_eq!(answer("UpdateItem", b"{}").unwrap(), json!({"Attributes": {}}));
        assert_eq!(answer("PutItem", b"{}").unwrap(), json!({}));
        assert_eq!(answer("GetItem", b"{}").unwrap(), json!({}));
        assert_eq!(answer("DeleteItem", b"{}").unwrap(), json!({}));
        assert_eq!(answer("Scan", b"{}").unwrap_err()["__type"], "UnknownOperationException");
    }

    #[test]
    fn a_request_names_its_messages_and_its_table() {
        let now = Instant::now();
        let body = br#"{"TableName":"ledger","Key":{"message_id":{"S":"msg_1"}}}"#.to_vec();
        let call = Call { arrived: now, answered: now, body };
        assert!(call.names("msg_1") && call.names(LEDGER_TABLE));
        assert!(!call.names("msg_2") && !call.names("learners"));
    }

    #[test]
    fn the_steps_of_powertools_are_told_apart_in_its_own_table() {
        let step = |body: Value| {
            let now = Instant::now();
            Call { arrived: now, answered: now, body: body.to_string().into_bytes() }.powertools_step()
        };
        let id = json!({"id": {"S": "consumer#1"}});
        let (claimed, settled, released) = (
            step(json!({"TableName": "idempotency", "Item": id, "ConditionExpression": "a"})),
            step(json!({"TableName": "idempotency", "Key": id, "UpdateExpression": "SET a = :a"})),
            step(json!({"TableName": "idempotency", "Key": id})),
        );
        assert_eq!(claimed, Some(PowertoolsStep::Claim("consumer#1".to_owned())));
        assert_eq!(settled, Some(PowertoolsStep::Settle("consumer#1".to_owned())));
        assert_eq!(released, Some(PowertoolsStep::Release("consumer#1".to_owned())));
        assert_eq!(step(json!({"TableName": "learners", "Key": id, "UpdateExpression": "SET a = :a"})), None);
        assert_eq!(step(json!({"Statements": []})), None);
    }
}
