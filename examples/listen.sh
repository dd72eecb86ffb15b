#!/usr/bin/env bash
# Prints each event as one line of JSON when it arrives, and then acknowledges it.
#   WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… examples/listen.sh
set -euo pipefail
exec wwproxy listen
