"""Signs and verifies webhooks with a sender's own library: python3 sender.py SCHEME SECRET

POST /sign answers with the headers of the signature as JSON. Any other POST is answered 204 if the library accepts the
webhook, and 422 if it refuses it.
"""
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

scheme, secret = sys.argv[1:]

if scheme == "slack":
    from slack_sdk.signature import SignatureVerifier

    verifier = SignatureVerifier(secret)

    def sign(body):
        timestamp = str(int(time.time()))
        signature = verifier.generate_signature(timestamp=timestamp, body=body)
        return {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": signature}

    def verify(body, headers):
        return verifier.is_valid_request(body, dict(headers))

elif scheme == "stripe":
    import stripe

    sign = None  # the library only verifies

    def verify(body, headers):
        try:
            return bool(stripe.Webhook.construct_event(body, headers["Stripe-Signature"], secret))
        except stripe.SignatureVerificationError:
            return False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/sign":
            return self.answer(200, json.dumps(sign(body)).encode())
        self.answer(204 if verify(body, self.headers) else 422)

    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
