// Receives events over a websocket and acknowledges each one. Needs Node.js 18 or newer, and `npm install ws`.
//   WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… node websocket.mjs
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";

const { WWPROXY_SERVER: server, APPID: app, SECRET: secret } = process.env;
const { QUERY: query = "window=8" } = process.env; // "consumer=audit&window=8" reads that consumer, "since=1h&window=8" the last hour and on
const ENCODINGS = ["json", "text", "base64", undefined]; // without an encoding: a server of version 0.1

async function handle(event) { // an event with a known id is a redelivery
  // A JSON value if the encoding is "json", a string if it is "text".
  const body = event.encoding === "base64" ? Buffer.from(event.data, "base64") : event.data;
  console.log(event.id, event.source, event.eventType, body);
}

async function getToken() {
  const authorization = "Basic " + Buffer.from(`${app}:${secret}`).toString("base64");
  const body = new URLSearchParams({ grant_type: "client_credentials" });
  const response = await fetch(server + "/oauth/token", { method: "POST", headers: { authorization }, body, redirect: "error" });
  if (!response.ok) throw new Error(`Unexpected server response: ${response.status} ${await response.text()}`);
  return (await response.json()).access_token;
}

async function listen() {
  const headers = { authorization: "Bearer " + (await getToken()) };
  const socket = new WebSocket(server.replace("http", "ws") + `/webhooks/${app}?${query}`, "wwproxy.v2", { headers });
  const timeout = setTimeout(() => socket.terminate(), 60_000); // the server pings every 20 s
  socket.on("ping", () => timeout.refresh());
  let handled = Promise.resolve(); // one event after the other
  socket.on("message", (message) => {
    const event = JSON.parse(message);
    if (event.type !== "event") return;
    if (!ENCODINGS.includes(event.encoding)) { // a newer server's; the event stays on the server, and holds up no other
      const reason = `unknown encoding ${event.encoding}`;
      console.error(`event ${event.id}: ${reason}`);
      return socket.send(JSON.stringify({ type: "event_nack", id: event.id, delayMs: 60_000, reason }));
    }
    handled = handled.then(() => handle(event));
    handled = handled.then(() => socket.send(JSON.stringify({ type: "event_ack", id: event.id })));
    handled.catch(() => socket.terminate());
  });
  await once(socket, "close");
  clearTimeout(timeout);
  await handled;
}

for (;;) {
  await listen().catch((error) => {
    console.error(error.message);
    if (/response: 4(?!29)/.test(error.message)) process.exit(1); // the address, the app or its secret is wrong
  });
  await sleep(1000 + Math.random() * 4000);
}
