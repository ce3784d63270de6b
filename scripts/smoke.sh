#!/usr/bin/env bash
# scripts/smoke.sh URL TOKEN: is what was deployed there what was meant? Needs curl and python3. Status 1 when it is not.
# MODEL (a category or a name) is asked; CUT_MODEL is one that breaks off, such as the demo model that ships.
set -uo pipefail

[ $# -eq 2 ] || { echo "usage: scripts/smoke.sh URL TOKEN" >&2; exit 2; }
url=${1%/} token=$2 failed=0
work=$(mktemp -d) && trap 'rm -r "$work"' EXIT

ok() { printf 'ok    %s\n' "$*"; }
fail() { printf 'FAIL  %s\n' "$*"; failed=1; }
note() { printf '      %s\n' "$*"; }
get() { curl --silent --show-error --max-time 120 "$@"; }
chat() { # chat MODEL MORE-OF-THE-BODY [CURL-OPTIONS]: as the caller
  local model=$1 more=$2
  shift 2
  get --no-buffer --header "Authorization: Bearer $token" --header 'Content-Type: application/json' \
    --data "{\"model\": \"$model\", \"messages\": [{\"role\": \"user\", \"content\": \"Count to ten.\"}]$more}" \
    "$@" "$url/v1/chat/completions"
}

# The events of a stream as they come: how many, in how many arrivals, when the first, how far apart, in milliseconds.
# Two events are one arrival when they come within 5 ms.
arrivals='
import os, statistics, sys, time
started, times, data = float(sys.argv[1]), [], b""
while piece := os.read(0, 65536):
    now = time.time()
    data += piece
    times += [now] * piece.count(b"data: ")
open(sys.argv[2], "wb").write(data)
gaps = [1000 * (b - a) for a, b in zip(times, times[1:])]
apart = [gap for gap in gaps if gap > 5]
first = 1000 * (times[0] - started) if times else 0
print(len(times), len(apart) + bool(times), round(first), round(statistics.median(apart)) if apart else 0)
'
now() { python3 -c 'import time; print(time.time())'; }
seconds() { get --output /dev/null --write-out '%{time_starttransfer}' "$url/ping"; }

first=$(seconds) || { fail "nobody answers at $url"; exit 1; }
again=$(for _ in 1 2 3 4 5; do seconds; echo; done | sort -n | sed -n 3p)
ok "/ping answers: first $first s (cold, if nobody was here before), then $again s (warm)"

status=$(get --output "$work/401" --dump-header "$work/headers" --write-out '%{http_code}' "$url/v1/models")
if [ "$status" = 401 ] && grep -q '"code": *"invalid_api_key"' "$work/401"; then
  ok "without a key: 401, in OpenAI's form"
else
  fail "without a key: $status $(head -c 200 "$work/401")"
fi
note "said by $(grep -i -o '^[a-z-]*www-authenticate' "$work/headers" || echo 'no header: a front end has dropped www-authenticate')"

status=$(get --head --output /dev/null --write-out '%{http_code}' "$url/ping")
case $status in
  200 | 405) ok "an answer without a body (HEAD): $status" ;;
  *) fail "an answer without a body (HEAD): $status" ;;
esac

read -r events arrived first_ms gap_ms \
  < <(started=$(now); chat "${MODEL:-SMALL}" ', "stream": true' | python3 -c "$arrivals" "$started" "$work/stream")
if ! grep -q '^data: \[DONE\]' "$work/stream"; then
  fail "a stream without its end: $(tail -c 300 "$work/stream")"
elif [ "$((4 * arrived))" -lt "$events" ]; then
  fail "a stream of $events events in $arrived arrivals: they are held back on the way"
else
  ok "a stream of $events events in $arrived arrivals: the first after $first_ms ms, then one each $gap_ms ms"
fi

status=$(chat "${CUT_MODEL:-demo/cut}" ', "stream": true' --output "$work/cut" --write-out '%{http_code}')
if [ "$status" = 404 ]; then
  note "a stream that breaks off: not tried, there is no model ${CUT_MODEL:-demo/cut}"
elif grep -q '^data: {"error"' "$work/cut" && ! grep -q '\[DONE\]' "$work/cut"; then
  ok "a stream that breaks off: $status, then an error event, and no [DONE]"
else
  fail "a stream that breaks off: $status $(tail -c 300 "$work/cut")"
fi

exit $failed
