# Receives events over a websocket and acknowledges each one. Needs Python 3.11 or newer, and `pip install websockets`.
#   WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… python3 websocket.py
import asyncio, base64, http.client, json, os, random, sys, time, urllib.parse
import websockets

server, app, secret = os.environ["WWPROXY_SERVER"], os.environ["APPID"], os.environ["SECRET"]
query = os.environ.get("QUERY", "window=8")  # "consumer=audit&window=8" reads that consumer, "since=1h&window=8" the last hour and on
ENCODINGS = ("json", "text", "base64", None)  # without an encoding: a server of version 0.1


def handle(event):  # an event with a known id is a redelivery
    data = event["data"]  # a JSON value if the encoding is "json", a string if it is "text"
    body = base64.b64decode(data) if event.get("encoding") == "base64" else data
    print(event["id"], event.get("source"), event.get("eventType"), repr(body), flush=True)


def get_token():
    url, basic = urllib.parse.urlsplit(server), base64.b64encode(f"{app}:{secret}".encode()).decode()
    connect = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = connect(url.netloc, timeout=30)  # follows no redirect, as the secret is for this server only
    connection.request("POST", "/oauth/token", "grant_type=client_credentials", {"Authorization": "Basic " + basic})
    response = connection.getresponse()
    if response.status in (400, 401, 404):
        sys.exit(f"no token: {response.read().decode()}")
    return json.load(response)["access_token"]


async def listen():
    url = "ws" + server.removeprefix("http") + f"/webhooks/{app}?{query}"
    options = {"subprotocols": ["wwproxy.v2"], "max_size": 11 * 2**20}  # the largest message has 11 MiB
    headers = {"Authorization": "Bearer " + await asyncio.to_thread(get_token)}
    async with websockets.connect(url, additional_headers=headers, **options) as socket:
        async for message in socket:
            event = json.loads(message)
            if event["type"] != "event":
                continue
            if event.get("encoding") in ENCODINGS:
                await asyncio.to_thread(handle, event)  # pings are answered meanwhile
                await socket.send(json.dumps({"type": "event_ack", "id": event["id"]}))
            else:  # a newer server's; the event stays on the server, and holds up no other
                reason = f"unknown encoding {event['encoding']}"
                print(f"event {event['id']}: {reason}", file=sys.stderr)
                nack = {"type": "event_nack", "id": event["id"], "delayMs": 60000, "reason": reason}
                await socket.send(json.dumps(nack))


while True:
    try:
        asyncio.run(listen())
    except (OSError, KeyError, ValueError, http.client.HTTPException, websockets.WebSocketException) as error:
        if isinstance(error, websockets.InvalidStatus) and error.response.status_code not in (429, 503):
            raise  # the address or the app is wrong, or a reverse proxy removes the upgrade
        print(f"reconnecting: {error!r}", file=sys.stderr)
    time.sleep(random.uniform(1, 5))
