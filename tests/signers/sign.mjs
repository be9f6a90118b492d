// Signs each line of standard input, `{"secret", "id", "timestamp_s", "body"}`, as Svix's npm package does.
import { readFileSync } from "node:fs";
import { Webhook } from "svix";

// Not `readline`, to which U+2028 is the end of a line as well.
for (const line of readFileSync(0, "utf8").trimEnd().split("\n")) {
  const { secret, id, timestamp_s, body } = JSON.parse(line);
  console.log(new Webhook(secret).sign(id, new Date(timestamp_s * 1000), body));
}
