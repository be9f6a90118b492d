"""A consumer as the documentation of Powertools for AWS Lambda (Python) shows it: batch processing, each record
idempotent by its SQS message id. Don't tune it."""

import json
import os

import boto3
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)

processor = BatchProcessor(event_type=EventType.SQS)
persistence_store = DynamoDBPersistenceLayer(table_name=os.environ["IDEMPOTENCY_TABLE"])
config = IdempotencyConfig(event_key_jmespath="messageId")

# Without a table, the handler is a no-op.
learners = None
if "LEARNERS_TABLE" in os.environ:
    learners = boto3.resource("dynamodb").Table(os.environ["LEARNERS_TABLE"])


@idempotent_function(data_keyword_argument="record", config=config, persistence_store=persistence_store)
def handle_record(record: SQSRecord):
    event = json.loads(record.body)
    if learners:
        learners.update_item(
            Key={"user_id": event["data"]["user_id"], "course_id": event["data"]["course_id"]},
            UpdateExpression="SET first_started_at = if_not_exists(first_started_at, :at), last_activity_at = :at",
            ExpressionAttributeValues={":at": event["timestamp"]},
        )


def handler(event, context):
    config.register_lambda_context(context)
    return process_partial_response(event=event, record_handler=handle_record, processor=processor, context=context)
