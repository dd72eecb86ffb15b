# Reads a consumer of its own over plain HTTP, and settles each event by its outcome. Needs Python 3.8 or newer, and no packages.
#   WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… python3 consumer.py
# It ends when its token does, after 12 hours, or when a request fails: start it again after a delay.
import base64, json, os, urllib.request

server, app, secret = os.environ["WWPROXY_SERVER"], os.environ["APPID"], os.environ["SECRET"]
# Created once; `types` and `start` cannot change. After 20 attempts an event is dead.
CONSUMER = {"types": ["issues*"], "start": "all", "maxAttempts": 20}


class Impossible(Exception):
    pass  # no attempt can succeed


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None  # credentials are sent to this server only


def send(method, path, authorization, body):
    request = urllib.request.Request(server + path, body.encode(), {"Authorization": authorization}, method=method)
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=60) as response:
            return json.loads(response.read() or "null")
    except urllib.request.HTTPError as error:
        raise SystemExit(f"{path}: {error.code} {error.read().decode()}")


def settle(outcome):
    send("POST", f"/webhooks/{app}/ack", bearer, json.dumps({"consumer": "audit", **outcome}))


def handle(event, extend):  # an event with a known id is a redelivery
    if event["encoding"] != "json":
        raise Impossible("the body is not JSON")
    extend()  # the lease begins again: call it every 30 s of long work
    print(event["id"], event.get("eventType"), event["data"]["issue"]["title"], flush=True)


basic = "Basic " + base64.b64encode(f"{app}:{secret}".encode()).decode()
bearer = "Bearer " + send("POST", "/oauth/token", basic, "grant_type=client_credentials")["access_token"]
send("PUT", f"/webhooks/{app}/consumers/audit", bearer, json.dumps(CONSUMER))
while True:
    lease = {"consumer": "audit", "max": 1, "waitMs": 50000}
    for event in send("POST", f"/webhooks/{app}/lease", bearer, json.dumps(lease))["events"]:
        receipt = event["receipt"]
        try:
            handle(event, lambda: settle({"extend": [receipt]}))
            settle({"ack": [receipt]})
        except Impossible as error:  # the event is dead, and is kept with the reason
            settle({"reject": [{"receipt": receipt, "reason": str(error)}]})
        except Exception as error:  # a later attempt may succeed
            settle({"release": [{"receipt": receipt, "delayMs": 60000, "reason": repr(error)}]})
