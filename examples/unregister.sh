#!/usr/bin/env bash
# Deletes an app's registration and its stored events.
#   WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… examples/unregister.sh
set -euo pipefail
exec wwproxy unregister
