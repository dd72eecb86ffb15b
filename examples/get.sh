#!/usr/bin/env bash
# Takes the stored events and prints them as one JSON object, the oldest first.
#   WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… examples/get.sh
set -euo pipefail
exec wwproxy get
