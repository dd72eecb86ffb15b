# Leases and acknowledges events over plain HTTP. Needs Python 3.8 or newer, and no packages.
#   WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… python3 lease.py
# It ends when its token does, after 12 hours, or when a request fails: start it again after a delay.
import base64, json, os, urllib.request

server, app, secret = os.environ["WWPROXY_SERVER"], os.environ["APPID"], os.environ["SECRET"]


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None  # credentials are sent to this server only


def post(path, authorization, body):
    request = urllib.request.Request(server + path, body.encode(), {"Authorization": authorization})
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=60) as response:
            return json.load(response)
    except urllib.request.HTTPError as error:
        raise SystemExit(f"{path}: {error.code} {error.read().decode()}")


basic = "Basic " + base64.b64encode(f"{app}:{secret}".encode()).decode()
bearer = "Bearer " + post("/oauth/token", basic, "grant_type=client_credentials")["access_token"]
while True:
    leased = post(f"/webhooks/{app}/lease", bearer, json.dumps({"max": 10, "waitMs": 50000}))
    for event in leased["events"]:
        print(event["id"], event.get("eventType"), flush=True)  # handle the event here; a known id is a redelivery
        post(f"/webhooks/{app}/ack", bearer, json.dumps({"ack": [event["receipt"]]}))
