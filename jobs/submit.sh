#!/usr/bin/env bash
# Runs a recipe on a Ray cluster that is there: submits the job, follows its log, and ends with
# the exit code of `factory run`.
set -euo pipefail

usage() {
  cat >&2 <<'END'
usage: jobs/submit.sh RECIPE OUT [factory run options...]

  RECIPE  recipe file; its folder is uploaded to the cluster (see FACTORY_WORKING_DIR)
  OUT     run folder that every node sees: a URL such as s3://bucket/run, or a shared path

environment:
  RAY_ADDRESS          the cluster's job server; default http://127.0.0.1:8265
  RAY_AUTH_TOKEN       the cluster's token (or RAY_AUTH_TOKEN_PATH, a file that holds it)
  FACTORY_WORKING_DIR  folder to upload, with RECIPE somewhere in it; `none` uploads nothing, for
                       a RECIPE on storage that every node mounts at the same path
  FACTORY_JOB          name of the job, which no other job has; default: a random one
  FACTORY_WAIT=0       return as soon as the job is submitted
END
  exit 2
}

fail() {
  echo "jobs/submit.sh: $1" >&2
  exit 2
}

[[ $# -ge 2 ]] || usage
[[ -f $1 ]] || fail "$1: no such recipe"
command -v ray >/dev/null || fail "no command 'ray': pip install 'ray[default]', as on the cluster"

export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
if [[ $RAY_AUTH_MODE == token && -z ${RAY_AUTH_TOKEN:-} ]]; then
  token_file="${RAY_AUTH_TOKEN_PATH:-${HOME:-}/.ray/auth_token}"
  [[ -s $token_file ]] || fail "RAY_AUTH_TOKEN is not set (and no token file $token_file): export \
the token that the cluster's head was started with, or RAY_AUTH_MODE=disabled if it has none"
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
address="${RAY_ADDRESS:-http://127.0.0.1:8265}"
recipe=$(cd "$(dirname "$1")" && pwd -P)/$(basename "$1")
out=$2
[[ $out == *://* || $out == /* ]] || out=$PWD/$out
shift 2

options=(--address "$address" --runtime-env "$here/job.yaml")
if [[ ${FACTORY_WORKING_DIR:-} != none ]]; then
  upload="${FACTORY_WORKING_DIR:-$(dirname "$recipe")}"
  upload=$(cd "$upload" && pwd -P) || fail "FACTORY_WORKING_DIR: no such folder"
  [[ $recipe == "$upload"/* ]] || fail "$recipe lies outside FACTORY_WORKING_DIR=$upload"
  recipe=${recipe#"$upload"/}
  options+=(--working-dir "$upload")
fi
job="${FACTORY_JOB:-factory-$(python -c 'import secrets; print(secrets.token_hex(8))')}"
options+=(--submission-id "$job")
[[ ${FACTORY_WAIT:-1} != 0 ]] || options+=(--no-wait)

ray job submit "${options[@]}" -- \
  python -m factory run "$recipe" --executor ray --set workers.address=auto --out "$out" "$@" &&
  exit 0

# `ray job submit` fails with 1 whatever happened: ask for the command's own exit code.
exec python - "$address" "$job" <<'END'
import sys

from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient

try:
    code = JobSubmissionClient(sys.argv[1]).get_job_info(sys.argv[2]).driver_exit_code
except (RuntimeError, ConnectionError, RayError) as error:
    print(f"jobs/submit.sh: the job was not started: {str(error).strip()[-300:]}", file=sys.stderr)
    sys.exit(3)
sys.exit(code if code in (1, 2) else 3)
END
