//! The statements that the ledger and the learners' table send to DynamoDB, read by the grammar that AWS documents. The
//! emulators of these tests accept more than DynamoDB does, and a claim that DynamoDB refuses would stop every message.
//!
//! The parser supports the part of the grammar that they need, and refuses everything else.
//! Source: DynamoDB developer guide, "`PartiQL` insert statements for DynamoDB" (`ql-reference.insert`), "`PartiQL`
//! update statements for DynamoDB" (`ql-reference.update`), "Running batch operations with `PartiQL` for DynamoDB"
//! (`ql-reference.multiplestatements.batching`), "Reserved words in DynamoDB" (`ReservedWords`); DynamoDB API,
//! `BatchStatementRequest`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use aws_config::SdkConfig;
use axum::Router as HttpRouter;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use futures_util::future::join_all;
use learnink_connectors::progress::Learners;
use learnink_consumer::DynamoDbLedger;
use learnink_consumer::ledger::Ledger;
use learnink_consumer::ledger::Settlement;
use learnink_local::dynamodb::Table;
use learnink_local::pipeline::{LEARNERS_TABLE, LEDGER_TABLE};
use learnink_local::sdk_config;
use learnink_tests::serve;
use serde_json::{Value, json};

use crate::learners::Event;
use crate::ledger_faults::{id, now, requests};

/// Source: DynamoDB API, `BatchStatementRequest`, `Statement`.
const LONGEST_STATEMENT: usize = 8_192;

/// Source: `ql-reference.multiplestatements.batching`.
const MOST_STATEMENTS: usize = 25;

/// A DynamoDB that accepts everything, but has the rows of this table already, and records its requests.
#[derive(Clone, Default)]
struct Recorder {
    known: Option<&'static str>,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Recorder {
    /// Starts it, and returns how to reach it.
    async fn start(&self) -> SdkConfig {
        let endpoint = serve(HttpRouter::new().fallback(answer).with_state(self.clone())).await;
        sdk_config(&endpoint)
    }

    /// The requests that carried statements.
    fn batches(&self) -> Vec<Value> {
        let asked = self.requests.lock().unwrap();
        assert!(asked.iter().all(|(operation, _)| operation == "BatchExecuteStatement"), "{asked:?}");
        asked.iter().map(|(_, body)| body.clone()).collect()
    }
}

async fn answer(
    State(recorder): State<Recorder>,
    headers: HeaderMap,
    body: String,
) -> ([(header::HeaderName, &'static str); 1], String) {
    let operation = headers["x-amz-target"].to_str().unwrap().rsplit('.').next().unwrap().to_owned();
    let body: Value = serde_json::from_str(&body).unwrap();
    let answer = |statement: &Value| {
        let text = statement["Statement"].as_str().unwrap();
        let is_there =
            recorder.known.is_some_and(|table| text.starts_with(&format!("INSERT INTO \"{table}\"")));
        if is_there { json!({ "Error": { "Code": "DuplicateItem" } }) } else { json!({}) }
    };
    let answers: Vec<_> = body["Statements"].as_array().into_iter().flatten().map(answer).collect();
    recorder.requests.lock().unwrap().push((operation, body));
    let answer = json!({ "Responses": answers });
    ([(header::CONTENT_TYPE, "application/x-amz-json-1.0")], answer.to_string())
}

/// A settlement in every form that its fields allow.
fn settlements() -> Vec<Settlement> {
    let settlement = |done: &[&str], failure_reason: Option<&str>| Settlement {
        id: id(1).into(),
        owner: "me/1".to_owned(),
        done: done.iter().map(|&key| key.to_owned()).collect(),
        failure_reason: failure_reason.map(str::to_owned),
        now: now(),
    };
    vec![
        settlement(&[], None),
        settlement(&[], Some("it's \"busy\"?")),
        settlement(&["progress"], None),
        settlement(&["progress", "push/1", "it's ?"], Some("busy")),
    ]
}

/// The ledger's requests for its claims and settlements.
async fn sent(table: &str) -> (Vec<Value>, Vec<Value>) {
    let (claims, settled) = (Recorder::default(), Recorder::default());
    let ledger = DynamoDbLedger::new(&claims.start().await, table);
    let answers = ledger.claim(requests(60)).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let ledger = DynamoDbLedger::new(&settled.start().await, table);
    let answers = ledger.settle(settlements()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    (claims.batches(), settled.batches())
}

/// The learners' requests for every kind of event.
async fn written(table: &'static str) -> Vec<Value> {
    let recorder = Recorder { known: Some(table), ..Recorder::default() };
    let learners = Learners::new(&recorder.start().await, table);
    let events = (0..60).map(|number: u8| Event {
        learner: number,
        is_start: number.is_multiple_of(2),
        at_ms: 1,
        message: number.into(),
        has_custom_id: number.is_multiple_of(3),
    });
    let events: Vec<_> = events.collect();
    let written = join_all(events.iter().map(|event| event.record(&learners))).await;
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    recorder.batches()
}

/// One piece of a statement.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A keyword or a name without quotes.
    Word(String),
    /// A name in double quotes.
    Name(String),
    /// Text in single quotes.
    Text(String),
    /// `?`.
    Parameter,
    /// An operator or a bracket.
    Symbol(String),
}

fn tokens(statement: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = statement;
    while let Some(first) = rest.chars().next() {
        let quoted = |quote| {
            let end = rest[1..].find(quote).ok_or("a quote is not closed")?;
            Ok::<_, String>((rest[1..=end].to_owned(), end + 2))
        };
        let (token, length) = match first {
            ' ' => (None, 1),
            '?' => (Some(Token::Parameter), 1),
            '"' => quoted('"').map(|(name, length)| (Some(Token::Name(name)), length))?,
            '\'' => quoted('\'').map(|(text, length)| (Some(Token::Text(text)), length))?,
            '{' | '}' | ':' | ',' => (Some(Token::Symbol(first.to_string())), 1),
            '=' | '<' | '>' => {
                let length = rest.find(|char| !"=<>".contains(char)).unwrap_or(rest.len());
                (Some(Token::Symbol(rest[..length].to_owned())), length)
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_';
                let length = rest.find(|char| !is_part(char)).unwrap_or(rest.len());
                (Some(Token::Word(rest[..length].to_owned())), length)
            }
            other => return Err(format!("`{other}` is not expected")),
        };
        tokens.extend(token);
        rest = &rest[length..];
    }
    Ok(tokens)
}

/// The rest of a statement, how many parameters were read, and the primary key of its table.
struct Parser {
    rest: std::vec::IntoIter<Token>,
    parameters: usize,
    key: Vec<&'static str>,
}

impl Parser {
    fn next_is(&self, symbol: &str) -> bool {
        self.rest.as_slice().first() == Some(&Token::Symbol(symbol.to_owned()))
    }

    fn next_is_keyword(&self, keyword: &str) -> bool {
        matches!(self.rest.as_slice().first(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword))
    }

    fn keyword(&mut self, keyword: &str) -> Result<(), String> {
        let is_next = self.next_is_keyword(keyword);
        let found = self.rest.next();
        if is_next { Ok(()) } else { Err(format!("{keyword} is expected, not {found:?}")) }
    }

    fn symbol(&mut self, symbol: &str) -> Result<(), String> {
        let is_next = self.next_is(symbol);
        let found = self.rest.next();
        if is_next { Ok(()) } else { Err(format!("`{symbol}` is expected, not {found:?}")) }
    }

    /// A table or an attribute. The 573 reserved words do not have underscores, and each of our names has one or
    /// is quoted.
    fn name(&mut self) -> Result<String, String> {
        match self.rest.next() {
            Some(Token::Name(name)) if !name.is_empty() => Ok(name),
            Some(Token::Word(word)) if word.contains('_') => Ok(word),
            Some(Token::Word(word)) => Err(format!("{word} may be a reserved word: quote it")),
            other => Err(format!("a name is expected, not {other:?}")),
        }
    }

    /// A value is a parameter: text in the statement itself would have to be escaped.
    fn parameter(&mut self) -> Result<(), String> {
        self.parameters += 1;
        match self.rest.next() {
            Some(Token::Parameter) => Ok(()),
            other => Err(format!("a parameter is expected, not {other:?}")),
        }
    }

    /// `INSERT INTO table VALUE item`.
    fn insert(&mut self) -> Result<String, String> {
        self.keyword("INTO")?;
        let table = self.name()?;
        self.keyword("VALUE")?;
        self.symbol("{")?;
        let mut attributes = BTreeSet::new();
        loop {
            match self.rest.next() {
                Some(Token::Text(name)) if attributes.insert(name.clone()) => {}
                other => {
                    return Err(format!("another attribute in single quotes is expected, not {other:?}"));
                }
            }
            self.symbol(":")?;
            self.parameter()?;
            if !self.next_is(",") {
                break;
            }
            self.symbol(",")?;
        }
        self.symbol("}")?;
        let has_key = self.key.iter().all(|name| attributes.contains(*name));
        if has_key { Ok(table) } else { Err("the item has no primary key".to_owned()) }
    }

    /// `UPDATE table [SET path = data | REMOVE path] [...] WHERE condition`.
    fn update(&mut self) -> Result<String, String> {
        let table = self.name()?;
        let mut changed = BTreeSet::new();
        while !self.next_is_keyword("WHERE") {
            let is_set = self.next_is_keyword("SET");
            self.keyword(if is_set { "SET" } else { "REMOVE" })?;
            let name = self.name()?;
            if is_set {
                self.symbol("=")?;
                self.parameter()?;
            }
            if self.key.contains(&&*name) || !changed.insert(name.clone()) {
                return Err(format!("{name} is changed twice, or is the primary key"));
            }
        }
        if changed.is_empty() {
            return Err("nothing is changed".to_owned());
        }
        self.keyword("WHERE")?;
        let mut named = BTreeSet::new();
        loop {
            let name = self.name()?;
            let Some(Token::Symbol(operator)) = self.rest.next() else {
                return Err("a comparison is expected".to_owned());
            };
            if !["=", "<>", "<", "<=", ">", ">="].contains(&operator.as_str()) {
                return Err(format!("`{operator}` is not an operator"));
            }
            self.parameter()?;
            if operator == "=" {
                named.insert(name);
            }
            if !self.next_is_keyword("AND") {
                break;
            }
            self.keyword("AND")?;
        }
        if self.key.iter().all(|name| named.contains(*name)) {
            Ok(table)
        } else {
            Err("the condition does not name one item by its primary key".to_owned())
        }
    }
}

/// The table of a statement, if DynamoDB would accept it with this many parameters for a table with this primary key.
fn table_of(statement: &str, parameters: usize, keys: &Table<'static>) -> Result<String, String> {
    if statement.is_empty() || statement.len() > LONGEST_STATEMENT {
        return Err(format!("the statement has {} characters", statement.len()));
    }
    let key = [keys.hash_key].into_iter().chain(keys.range_key).collect();
    let mut parser = Parser { rest: tokens(statement)?.into_iter(), parameters: 0, key };
    let is_insert = parser.next_is_keyword("INSERT");
    parser.keyword(if is_insert { "INSERT" } else { "UPDATE" })?;
    let table = if is_insert { parser.insert() } else { parser.update() }?;
    if let Some(more) = parser.rest.next() {
        return Err(format!("the statement goes on with {more:?}"));
    }
    if parser.parameters != parameters {
        return Err(format!("it has {} parameters, and is given {parameters}", parser.parameters));
    }
    Ok(table)
}

/// Whether DynamoDB would accept a parameter: of one type, and not an empty set.
/// Source: DynamoDB API, `AttributeValue`.
fn is_value(value: &Value) -> bool {
    let value: Vec<_> = value.as_object().into_iter().flatten().collect();
    let is_number = |text: &str| text.parse::<i64>().is_ok();
    match value.as_slice() {
        [(kind, value)] if *kind == "S" => value.is_string(),
        [(kind, value)] if *kind == "N" => value.as_str().is_some_and(is_number),
        [(kind, value)] if *kind == "SS" => {
            let texts: Vec<_> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let different: BTreeSet<_> = texts.iter().collect();
            !texts.is_empty() && different.len() == texts.len()
        }
        _ => false,
    }
}

fn check(batches: &[Value], table: &str, keys: &Table<'static>) {
    for batch in batches {
        let statements = batch["Statements"].as_array().unwrap();
        assert!((1..=MOST_STATEMENTS).contains(&statements.len()), "{} statements", statements.len());
        for statement in statements {
            let parameters = statement["Parameters"].as_array().unwrap();
            assert!(!parameters.is_empty() && parameters.iter().all(is_value), "{statement}");
            let text = statement["Statement"].as_str().unwrap();
            assert_eq!(table_of(text, parameters.len(), keys).as_deref(), Ok(table), "{text}");
        }
    }
}

#[tokio::test]
async fn dynamodb_takes_every_statement_of_the_ledger_as_far_as_its_documentation_goes() {
    // As CloudFormation names it: with hyphens, which need quotes.
    let table = "learnink-webhooks-staging-LedgerTable-1ABCDEF2GHIJK";
    let (claims, settled) = sent(table).await;
    check(&claims, table, &LEDGER_TABLE);
    check(&settled, table, &LEDGER_TABLE);
    assert_eq!(claims.iter().map(|batch| batch["Statements"].as_array().unwrap().len()).sum::<usize>(), 60);
    assert_eq!(settled[0]["Statements"].as_array().unwrap().len(), settlements().len());
}

#[tokio::test]
async fn dynamodb_takes_every_statement_of_the_learners_table_as_far_as_its_documentation_goes() {
    let table = "learnink-webhooks-staging-LearnersTable-1ABCDEF2GHIJK";
    let written = written(table).await;
    check(&written, table, &LEARNERS_TABLE);
    let statements = written.iter().flat_map(|batch| batch["Statements"].as_array().unwrap());
    let texts: BTreeSet<_> = statements.map(|one| one["Statement"].as_str().unwrap()).collect();
    // Inserts and updates, of starts and other activities, with and without an id of the customer's.
    assert_eq!(texts.len(), 2 + 4, "{texts:#?}");
}

#[test]
fn a_statement_that_dynamodb_would_refuse_is_refused_here() {
    for (statement, parameters, why) in [
        ("INSERT INTO \"t\" VALUE {'message_id': ?}", 2, "is given 2"),
        ("INSERT INTO \"t\" VALUE {'message_id': ?, 'lease_owner': ?}", 1, "is given 1"),
        ("INSERT INTO \"t\" VALUE {'lease_owner': ?}", 1, "no primary key"),
        ("INSERT INTO \"t\" VALUE {'message_id': ?, 'message_id': ?}", 2, "another attribute"),
        ("INSERT INTO \"t\" VALUE {message_id: ?}", 1, "in single quotes"),
        ("INSERT INTO \"t\" VALUE {\"message_id\": ?}", 1, "in single quotes"),
        ("INSERT INTO \"t\" VALUE {'message_id': 'msg_1'}", 0, "a parameter is expected"),
        ("INSERT INTO \"t\" VALUE {'message_id': ?,}", 1, "another attribute"),
        ("INSERT INTO \"t\" VALUE {'message_id' ?}", 1, "`:` is expected"),
        ("INSERT INTO \"t\" VALUE {'message_id': ?", 1, "`}` is expected"),
        ("INSERT INTO \"t\" VALUES {'message_id': ?}", 1, "VALUE is expected"),
        ("INSERT INTO \"t\" (message_id) VALUES (?)", 1, "`(` is not expected"),
        ("INSERT \"t\" VALUE {'message_id': ?}", 1, "INTO is expected"),
        ("INSERT INTO my-table VALUE {'message_id': ?}", 1, "`-` is not expected"),
        ("INSERT INTO ledger VALUE {'message_id': ?}", 1, "quote it"),
        ("INSERT INTO 't' VALUE {'message_id': ?}", 1, "a name is expected"),
        ("INSERT INTO \"t VALUE {'message_id': ?}", 1, "not closed"),
        ("INSERT INTO \"t\" VALUE {'message_id': ?};", 1, "`;` is not expected"),
        ("INSERT INTO \"t\" VALUE {'message_id': ?} ON CONFLICT DO NOTHING", 1, "goes on"),
        ("UPDATE \"t\" SET lease_owner = ? WHERE message_id = ?", 3, "is given 3"),
        ("UPDATE \"t\" SET lease_owner = ?", 1, "REMOVE is expected"),
        ("UPDATE \"t\" SET lease_owner = ? WHERE lease_owner = ?", 2, "by its primary key"),
        ("UPDATE \"t\" SET lease_owner = ? WHERE message_id > ?", 2, "by its primary key"),
        ("UPDATE \"t\" SET lease_owner = ? WHERE message_id == ?", 2, "not an operator"),
        ("UPDATE \"t\" SET lease_owner = ? WHERE message_id = ? OR lease_owner = ?", 3, "goes on"),
        ("UPDATE \"t\" SET lease_owner = ? SET lease_owner = ? WHERE message_id = ?", 3, "changed twice"),
        ("UPDATE \"t\" SET message_id = ? WHERE message_id = ?", 2, "the primary key"),
        ("UPDATE \"t\" SET owner = ? WHERE message_id = ?", 2, "quote it"),
        ("UPDATE \"t\" ADD done_keys ? WHERE message_id = ?", 2, "REMOVE is expected"),
        ("UPDATE \"t\" REMOVE done_keys = ? WHERE message_id = ?", 2, "REMOVE is expected"),
        ("UPDATE \"t\" WHERE message_id = ?", 1, "nothing is changed"),
        ("DELETE FROM \"t\" WHERE message_id = ?", 1, "UPDATE is expected"),
        ("", 0, "0 characters"),
    ] {
        let refused = table_of(statement, parameters, &LEDGER_TABLE).unwrap_err();
        assert!(refused.contains(why), "{statement}: {refused}");
    }
    let long = format!("INSERT INTO \"{}\" VALUE {{'message_id': ?}}", "t".repeat(LONGEST_STATEMENT));
    assert!(table_of(&long, 1, &LEDGER_TABLE).unwrap_err().contains("characters"));
    let half_a_key = "UPDATE \"t\" SET occurred_at_ms = ? WHERE user_id = ?";
    assert!(table_of(half_a_key, 2, &LEARNERS_TABLE).unwrap_err().contains("by its primary key"));
    for value in
        [json!({ "SS": [] }), json!({ "SS": ["a", "a"] }), json!({ "N": "1e" }), json!({}), json!("a")]
    {
        assert!(!is_value(&value), "{value}");
    }
}
