#!/usr/bin/env bash
# Registers an app's webhook secret.
#   WWPROXY_SERVER=http://127.0.0.1:8080 APPID=my-bot SECRET=… examples/register.sh WEBHOOK_SECRET
# Without an argument the webhook secret is read from standard input, where `ps` does not show it.
set -euo pipefail
if [ $# -gt 0 ]; then printf %s "$1"; else cat; fi | wwproxy register -
