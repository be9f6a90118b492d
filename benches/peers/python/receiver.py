"""A receiver as the documentation of Svix and boto3 shows it. Don't tune it."""

import base64
import logging
import os

import boto3
from svix.webhooks import Webhook, WebhookVerificationError

sqs = boto3.client("sqs")
webhook = Webhook(os.environ["WEBHOOK_SECRET"])


def handler(event, context):
    payload = event["body"]
    if event["isBase64Encoded"]:
        payload = base64.b64decode(payload).decode()
    try:
        webhook.verify(payload, event["headers"])
    except WebhookVerificationError as error:
        logging.warning("invalid webhook: %s", error)
        return {"statusCode": 400, "body": "invalid signature"}
    sqs.send_message(QueueUrl=os.environ["QUEUE_URL"], MessageBody=payload)
    return {"statusCode": 200, "body": "ok"}
