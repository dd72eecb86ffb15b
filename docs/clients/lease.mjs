// Leases and acknowledges events over plain HTTP. Needs Node.js 18 or newer, and no packages.
//   WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… node lease.mjs
// It ends when its token does, after 12 hours, or when a request fails: start it again after a delay.
const { WWPROXY_SERVER: server, APPID: app, SECRET: secret } = process.env;

async function post(path, authorization, body) {
  const response = await fetch(server + path, { method: "POST", headers: { authorization }, body, redirect: "error" });
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  return response.json();
}

const basic = "Basic " + Buffer.from(`${app}:${secret}`).toString("base64");
const form = new URLSearchParams({ grant_type: "client_credentials" });
const bearer = "Bearer " + (await post("/oauth/token", basic, form)).access_token;
for (;;) {
  const { events } = await post(`/webhooks/${app}/lease`, bearer, JSON.stringify({ max: 10, waitMs: 50_000 }));
  for (const event of events) {
    console.log(event.id, event.eventType); // handle the event here; an id that was seen before is a redelivery
    await post(`/webhooks/${app}/ack`, bearer, JSON.stringify({ ack: [event.receipt] }));
  }
}
