// A consumer as the documentation of Powertools for AWS Lambda (TypeScript) shows it: batch processing, each record
// idempotent by its SQS message id. Don't tune it.
import { BatchProcessor, EventType, processPartialResponse } from "@aws-lambda-powertools/batch";
import { IdempotencyConfig, makeIdempotent } from "@aws-lambda-powertools/idempotency";
import { DynamoDBPersistenceLayer } from "@aws-lambda-powertools/idempotency/dynamodb";
import { DynamoDBClient } from "@aws-sdk/client-dynamodb";
import { DynamoDBDocumentClient, UpdateCommand } from "@aws-sdk/lib-dynamodb";

const processor = new BatchProcessor(EventType.SQS);
const persistenceStore = new DynamoDBPersistenceLayer({ tableName: process.env.IDEMPOTENCY_TABLE });
const config = new IdempotencyConfig({ eventKeyJmesPath: "messageId" });

// Without a table, the handler is a no-op.
const learnersTable = process.env.LEARNERS_TABLE;
const learners = learnersTable && DynamoDBDocumentClient.from(new DynamoDBClient({}));

const handleRecord = async (record) => {
  const event = JSON.parse(record.body);
  if (learners) {
    await learners.send(
      new UpdateCommand({
        TableName: learnersTable,
        Key: { user_id: event.data.user_id, course_id: event.data.course_id },
        UpdateExpression: "SET first_started_at = if_not_exists(first_started_at, :at), last_activity_at = :at",
        ExpressionAttributeValues: { ":at": event.timestamp },
      }),
    );
  }
};
const handleRecordOnce = makeIdempotent(handleRecord, { persistenceStore, config });

export const handler = async (event, context) => {
  config.registerLambdaContext(context);
  return processPartialResponse(event, handleRecordOnce, processor, { context });
};
