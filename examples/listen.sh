#!/usr/bin/env bash
# Prints events as they come, one JSON object a line, and acknowledges each once it is printed.
#   WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… examples/listen.sh
set -euo pipefail
exec wwproxy listen
