#!/usr/bin/env bash
# Checks plgolf on one NVIDIA GPU and measures it beside the reference-style loop, within nine minutes.
#
#   benchmarks/gpu.sh OUT [--data ROOT [--tokenizer FILE]] [--tiny]
#
# Needs torch, lightning, sentencepiece and torchmetrics, and neither network nor installation. Checks dtypes and
# waits for the device; measures whole steps of the baseline recipe on random shards, what the Trainer adds to
# them, attention backends with their errors and the optimizer; then trains three minutes on the shards in
# ROOT, or on the bytes of the standard library, and counts the graphs. A part that fails is reported, and the
# next one runs. Writes OUT/gpu.json, and a log and a JSON file of each part. Exits with 0 if no part failed.
# --tiny is for tests, also on a CPU.
set -uo pipefail

# Seconds of everything, and of the last part without its training.
readonly LIMIT=540 BESIDE=70
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
out="" tiny=() data=() size=baseline seconds=180
while (($#)); do
  case $1 in
    --tiny) tiny=(--tiny) size=tiny seconds=3 ;;
    --data) data+=(--data "$2"); shift ;;
    --tokenizer) data+=(--tokenizer "$2"); shift ;;
    -*) echo "gpu.sh: no option $1" >&2; exit 2 ;;
    *) out=$1 ;;
  esac
  shift
done
[[ -n $out ]] || { echo "usage: gpu.sh OUT [--data ROOT [--tokenizer FILE]] [--tiny]" >&2; exit 2; }
mkdir -p "$out"
# Parts share what they compile. A part that is cut short may leave half a file there.
TORCHINDUCTOR_CACHE_DIR=$(mktemp -d)
export TORCHINDUCTOR_CACHE_DIR
trap 'rm -rf "$TORCHINDUCTOR_CACHE_DIR"' EXIT
rm -f "$out"/*.json "$out"/*.log
status=0

left() { echo $((LIMIT - 15 - SECONDS)); }

part() { # NAME SECONDS_AT_MOST PROGRAM ARGUMENTS...
  local name=$1 most=$2 began=$SECONDS code=0
  shift 2
  ((most > $(left))) && most=$(left)
  ((most > 0)) || most=1
  timeout -k 5 "$most" python3 "$here/$1" "${@:2}" --json "$out/$name.json" >"$out/$name.log" 2>&1 || code=$?
  ((code == 0)) || status=1
  ((code < 124)) || rm -rf "${TORCHINDUCTOR_CACHE_DIR:?}"/*
  echo "$name: $([[ $code == 0 ]] && echo done || echo "FAILED with $code") after $((SECONDS - began)) s"
}

variants=(reference-bfloat16-compiled plgolf-bfloat16-compiled)
rounds=5 repeat=3 shard_tokens=50000000 trainer=(--size "$size" --rounds 5 --steps 5)
[[ $size == tiny ]] && {
  variants=(reference-bfloat16 plgolf-bfloat16) rounds=2 repeat=1 shard_tokens=20000
  trainer=(--rounds 1 --steps 5)
}

part dtypes 60 gpu_checks.py dtypes "${tiny[@]}"
part syncs 90 gpu_checks.py syncs "${tiny[@]}"
part step 200 step.py --size "$size" --variants "${variants[@]}" --rounds "$rounds" --repeat "$repeat" --shard_tokens "$shard_tokens"
part overhead 90 lightning_overhead.py "${trainer[@]}"
part attention 60 attention.py --shapes "$size" --dtypes bfloat16 --rounds "$rounds" --repeat "$repeat"
part optimizer 60 optimizer.py --size "$size" --rounds "$rounds" --eager
training=$(($(left) - BESIDE))
((training < seconds)) && seconds=$((training > 1 ? training : 1))
part train "$LIMIT" gpu_checks.py train "${tiny[@]}" "${data[@]}" --folder "$out" --seconds "$seconds"

timeout 15 python3 "$here/gpu_checks.py" collect --folder "$out" || status=1
exit "$status"
