#!/usr/bin/env bash
# Runs a recipe on all GPUs or cores of this machine: starts a Ray head with a fresh token, submits
# the recipe to it, and stops that head, and only that, at the end. With RAY_ADDRESS set a cluster
# is there already: then this is jobs/submit.sh.
#
# usage: jobs/one-machine.sh RECIPE OUT [factory run options...]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
if [[ -n ${RAY_ADDRESS:-} || $# -lt 2 ]]; then
  exec "$here/submit.sh" "$@"
fi

session=$(mktemp -d)
head=
job=

stop() {
  # By job and process group: `ray stop` would end every Ray on this host.
  if [[ -n $job ]]; then # interrupted: the command first, it outlives its head otherwise
    ray job stop "$FACTORY_JOB" >/dev/null 2>&1 || true
    kill -TERM -- "-$job" 2>/dev/null || true
  fi
  if [[ -n $head ]]; then
    kill -TERM "$head" 2>/dev/null || true
    for _ in {1..100}; do
      kill -0 "$head" 2>/dev/null || break
      sleep 0.2
    done
    kill -KILL -- "-$head" 2>/dev/null || true
  fi
  rm -rf "$session"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

read -r token port client_port < <(python - <<'END'
import secrets
import socket

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(secrets.token_hex(32), *(each.getsockname()[1] for each in sockets))
END
)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$token RAY_ADDRESS="http://127.0.0.1:$port"
export FACTORY_JOB=one-machine

set -m # each background command leads a process group of its own
env -u RAY_ADDRESS TMPDIR="$session" ray start --head --block --port=0 --temp-dir="$session" --disable-usage-stats \
  --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$port" \
  --dashboard-agent-listen-port=0 --ray-client-server-port="$client_port" \
  --min-worker-port=0 --max-worker-port=0 </dev/null >"$session/head.log" 2>&1 &
head=$!
if ! python - "$RAY_ADDRESS" "$head" <<'END'
import http.client
import os
import sys
import time
import urllib.error
import urllib.request

address, head = sys.argv[1], int(sys.argv[2])
for _ in range(400):
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=5)
    except urllib.error.HTTPError:
        break  # it answers: the token is the client's business
    except (OSError, http.client.HTTPException):
        time.sleep(0.3)
    else:
        break
    try:
        os.kill(head, 0)
    except ProcessLookupError:
        sys.exit(1)
else:
    sys.exit(1)
END
then
  echo "jobs/one-machine.sh: Ray did not start:" >&2
  tail -n 20 "$session/head.log" >&2
  exit 3
fi

"$here/submit.sh" "$@" &
job=$!
set +m
code=0
wait "$job" || code=$?
job=
exit "$code"
