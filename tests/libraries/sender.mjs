// Signs and verifies webhooks with a sender's own library: node sender.mjs SCHEME SECRET
// POST /sign answers with the headers of the signature as JSON. Any other POST is answered 204 if the library accepts the
// webhook, and 422 if it refuses it.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";

const [scheme, secret] = process.argv.slice(2);
/** The URL as registered with a sender that signs it. */
const registered = "https://proxy.example.test/hook";

// For each scheme, `verify` and, if the library can, `sign`. `verify` is false or throws if the library refuses the webhook.
const libraries = {
  async github() {
    const { sign, verify } = await import("@octokit/webhooks-methods");
    return {
      sign: async (body) => ({ "x-hub-signature-256": await sign(secret, body.toString()) }),
      verify: (body, headers) => verify(secret, body.toString(), headers["x-hub-signature-256"]),
    };
  },

  async stripe() {
    const { default: Stripe } = await import("stripe");
    const { webhooks } = new Stripe("sk_test_unused");
    return {
      sign: (body) => ({ "stripe-signature": webhooks.generateTestHeaderString({ payload: body.toString(), secret }) }),
      verify: (body, headers) => webhooks.constructEvent(body, headers["stripe-signature"], secret),
    };
  },

  async shopify() {
    await import("@shopify/shopify-api/adapters/node");
    const { ApiVersion, LogSeverity, shopifyApi } = await import("@shopify/shopify-api");
    const api = shopifyApi({
      apiKey: "unused",
      apiSecretKey: secret,
      apiVersion: Object.values(ApiVersion)[0],
      hostName: "app.example.test",
      isEmbeddedApp: false,
      logger: { level: LogSeverity.Error },
    });
    return {
      verify: async (body, headers, rawRequest, rawResponse) =>
        (await api.webhooks.validate({ rawBody: body.toString(), rawRequest, rawResponse })).valid,
    };
  },

  async linear() {
    const { LinearWebhookClient } = await import("@linear/sdk/webhooks");
    const client = new LinearWebhookClient(secret);
    return { verify: (body, headers) => client.verify(body, headers["linear-signature"]) };
  },

  async discord() {
    const { verifyKey } = await import("discord-interactions");
    return {
      verify: (body, headers) => verifyKey(body, headers["x-signature-ed25519"], headers["x-signature-timestamp"], secret),
    };
  },

  async "standard-webhooks"() {
    const { Webhook } = await import("standardwebhooks");
    const webhook = new Webhook(secret);
    return {
      sign(body) {
        const [id, now] = [randomUUID(), new Date()];
        return {
          "webhook-id": id,
          "webhook-timestamp": `${Math.floor(now / 1000)}`,
          "webhook-signature": webhook.sign(id, now, body.toString()),
        };
      },
      verify: (body, headers) => webhook.verify(body, headers),
    };
  },

  async twilio() {
    const twilio = (await import("twilio")).default;
    const algorithm = (headers) => twilio.getSignatureAlgorithm(headers["x-twilio-webhooks-signature-settings"]);
    const isForm = (headers) => headers["content-type"] === "application/x-www-form-urlencoded";
    const fields = (body) => Object.fromEntries(new URLSearchParams(body.toString()));
    return {
      sign(body, headers, { url }) {
        const form = isForm(headers) ? fields(body) : {};
        const signature = twilio.getExpectedTwilioSignature(secret, registered + query(url), form, algorithm(headers));
        return { "x-twilio-signature": signature };
      },
      verify(body, headers, { url }) {
        const signed = [secret, headers["x-twilio-signature"], registered + query(url)];
        if (isForm(headers)) return twilio.validateRequest(...signed, fields(body), algorithm(headers));
        return twilio.validateRequestWithBody(...signed, body.toString(), algorithm(headers));
      },
    };
  },
};

const query = (path) => new URL(path, registered).search;
const { sign, verify } = await libraries[scheme]();

const server = createServer(async (request, response) => {
  const body = Buffer.concat(await request.toArray());
  const { headers, url } = request;
  if (url.startsWith("/sign")) return response.end(JSON.stringify(await sign(body, headers, request)));
  try {
    response.statusCode = (await verify(body, headers, request, response)) ? 204 : 422;
    response.end();
  } catch (error) {
    response.writeHead(422).end(error.message);
  }
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
