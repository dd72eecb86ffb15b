#!/usr/bin/env bash
# Prints the stored events as one JSON object, the oldest first, and deletes them.
#   WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… examples/get.sh
set -euo pipefail
exec wwproxy get
