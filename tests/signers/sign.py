"""Signs each line of standard input, `{"secret", "id", "timestamp_s", "body"}`, as Svix's PyPI package does."""

import json
import sys
from datetime import datetime, timezone

from svix.webhooks import Webhook

for line in sys.stdin:
    delivery = json.loads(line)
    signed_at = datetime.fromtimestamp(delivery["timestamp_s"], timezone.utc)
    print(Webhook(delivery["secret"]).sign(delivery["id"], signed_at, delivery["body"]))
