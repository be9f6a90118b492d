// A receiver as the documentation of Svix and of the AWS SDK for JavaScript shows it. Don't tune it.
import { SendMessageCommand, SQSClient } from "@aws-sdk/client-sqs";
import { Webhook } from "svix";

const sqs = new SQSClient({});
const webhook = new Webhook(process.env.WEBHOOK_SECRET);

export const handler = async (event) => {
  const payload = event.isBase64Encoded ? Buffer.from(event.body, "base64").toString() : event.body;
  try {
    webhook.verify(payload, event.headers);
  } catch (error) {
    console.warn(`invalid webhook: ${error.message}`);
    return { statusCode: 400, body: "invalid signature" };
  }
  await sqs.send(new SendMessageCommand({ QueueUrl: process.env.QUEUE_URL, MessageBody: payload }));
  return { statusCode: 200, body: "ok" };
};
