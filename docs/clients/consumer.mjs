// Reads a consumer of its own over plain HTTP, and settles each event by its outcome. Needs Node.js 18 or newer, and no packages.
//   WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… node consumer.mjs
// It ends when its token does, after 12 hours, or when a request fails: start it again after a delay.
const { WWPROXY_SERVER: server, APPID: app, SECRET: secret } = process.env;
// Created once; `types` and `start` cannot change. After 20 attempts an event is dead.
const CONSUMER = { types: ["issues*"], start: "all", maxAttempts: 20 };

class Impossible extends Error {} // no attempt can succeed

async function send(method, path, authorization, body) {
  const response = await fetch(server + path, { method, headers: { authorization }, body, redirect: "error" });
  const text = await response.text();
  if (!response.ok) throw new Error(`${path}: ${response.status} ${text}`);
  return JSON.parse(text || "null");
}

async function settle(outcome) {
  await send("POST", `/webhooks/${app}/ack`, bearer, JSON.stringify({ consumer: "audit", ...outcome }));
}

async function handle(event, extend) { // an event with a known id is a redelivery
  if (event.encoding !== "json") throw new Impossible("the body is not JSON");
  await extend(); // the lease begins again: call it every 30 s of long work
  console.log(event.id, event.eventType, event.data.issue.title);
}

async function outcomeOf(event) {
  const { receipt } = event;
  try {
    await handle(event, () => settle({ extend: [receipt] }));
    return { ack: [receipt] };
  } catch (error) {
    const reason = error.message;
    if (error instanceof Impossible) return { reject: [{ receipt, reason }] }; // the event is dead, and is kept with the reason
    return { release: [{ receipt, delayMs: 60_000, reason }] }; // a later attempt may succeed
  }
}

const basic = "Basic " + Buffer.from(`${app}:${secret}`).toString("base64");
const form = new URLSearchParams({ grant_type: "client_credentials" });
const bearer = "Bearer " + (await send("POST", "/oauth/token", basic, form)).access_token;
await send("PUT", `/webhooks/${app}/consumers/audit`, bearer, JSON.stringify(CONSUMER));
for (;;) {
  const lease = JSON.stringify({ consumer: "audit", max: 1, waitMs: 50_000 });
  const { events } = await send("POST", `/webhooks/${app}/lease`, bearer, lease);
  for (const event of events) await settle(await outcomeOf(event));
}
