// An endpoint that verifies each webhook as Svix's npm package does. It prints its port, then what it took, and ends
// with its standard input.
import { createServer } from "node:http";
import { Webhook } from "svix";

const webhook = new Webhook(process.argv[2]);

const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    try {
      const body = Buffer.concat(chunks);
      webhook.verify(body, request.headers);
      console.log(`${request.headers["webhook-id"]} ${JSON.parse(body).type}`);
      response.writeHead(204).end();
    } catch {
      response.writeHead(401).end();
    }
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume();
