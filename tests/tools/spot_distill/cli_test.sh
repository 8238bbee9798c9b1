#!/usr/bin/env bash
# spot-distill from the command line, on the tiny test model and a CPU: trains, is interrupted, resumes to the same file,
# calibrates, and refuses what it cannot use in one line.
#   cli_test.sh SPOT_DISTILL MODEL_DIR
set -euo pipefail
distill=$1
other=$(dirname "$2")/llama3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/corpus"
model=$work/model
cp -r "$2" "$model"
sed -i 's/"max_position_embeddings": *[0-9]*/"max_position_embeddings": 1024/' "$model/config.json"
for i in $(seq 12); do
  for line in $(seq 60); do echo "line $((line * i % 37)) of text number $i says $((line * 7919 * i % 1000))"; done > "$work/corpus/$i.txt"
done
run() {
  "$distill" --model "$model" --backend cpu --threads 2 --corpus "$work/corpus" --length 64 --queries 8 --sequences 2 \
    --heads 2 --dim 32 --round_keys 0.5 --sink_tokens 8 --recency_tokens 16 --warmup 2 "$@"
}
fail() { echo "FAILED: $*"; exit 1; }
refused() {  # WORD COMMAND...: fails with one line that has the word
  local word=$1 message
  shift
  if message=$("$@" 2>&1); then fail "accepted: $*"; fi
  message=$(tail -n 1 <<< "$message")
  grep -q "$word" <<< "$message" || fail "'$message' does not say '$word'"
}

run --tokens 25600 --out "$work/whole"
# Ctrl-C after some steps, then resume: the same bytes as without.
run --tokens 25600 --checkpoint_every 1 --out "$work/part" 2> "$work/log" & pid=$!
for _ in $(seq 3000); do [ -e "$work/part.checkpoint" ] && break; sleep 0.02; done
kill -INT $pid || true
status=0
wait $pid || status=$?
# An interrupted run is not a finished one, or a cluster's job would count as done.
[ $status = "$([ -e "$work/part" ] && echo 0 || echo 130)" ] || fail "Ctrl-C ended the run with status $status: $(cat "$work/log")"
[ -e "$work/part.checkpoint" ] || fail "no checkpoint after Ctrl-C"
run --tokens 25600 --resume --out "$work/part"
cmp "$work/whole" "$work/part" || fail "a resumed run gave another selector"

# Calibration has nothing to save: it ends at once, and leaves the file it was to replace as it was.
cp "$work/whole" "$work/endless"
"$distill" --model "$model" --backend cpu --threads 2 --corpus "$work/corpus" --calibrate "$work/endless" \
  --out "$work/endless" --context 640 --density 0.7 --documents 4 --questions 4 --tail 32 --rounds 1000 > /dev/null 2> "$work/log" & pid=$!
for _ in $(seq 3000); do grep -q "before round" "$work/log" && break; sleep 0.02; done
kill -TERM $pid
for _ in $(seq 500); do kill -0 $pid 2> /dev/null || break; sleep 0.02; done
if kill -KILL $pid 2> /dev/null; then fail "SIGTERM did not end a calibration"; fi
wait $pid && fail "a calibration that was ended reports success"
cmp "$work/whole" "$work/endless" || fail "a calibration that was ended changed the file"
# Beyond the file size limit a write fails like on a full disk, and the old file stays.
cp "$work/part" "$work/kept"
refused "File too large" bash -c 'ulimit -f 8; "$@"' _ "$distill" --model "$model" --backend cpu --corpus "$work/corpus" \
  --length 64 --heads 2 --dim 32 --tokens 64 --sequences 1 --out "$work/kept"
cmp "$work/part" "$work/kept" || fail "a failed write changed the file"
[ -z "$(find "$work" -name '*.partial*')" ] || fail "a failed write left its temporary file"

run --calibrate "$work/whole" --out "$work/calibrated" --context 128 --documents 2 --questions 0 --tail 4 --rounds 1 \
  --density 1 --corpus "$work/corpus" > "$work/table" 2> "$work/log"
grep -q "p_residual per layer" "$work/table" || fail "calibration printed no table"
tail -n 1 "$work/log" | grep -q "budgets: .* per layer, searched for 1; at 128 tokens they read 1 " \
  || fail "calibration does not say what it wrote: $(tail -n 1 "$work/log")"
grep -q budget_p_residual "$work/calibrated" || fail "calibration wrote no budget"

"$distill" --model "$model" --backend cpu --threads 2 --corpus "$work/corpus" --calibrate "$work/whole" --storage int8 \
  --out "$work/small" --context 640 --density 0.7 --documents 1 --questions 1 --tail 2 --rounds 1 --rules p_residual > "$work/table"
again() { "$distill" --model "$model" --backend cpu --threads 2 --corpus "$work/corpus" --calibrate "$1" --out "$2" \
  --context 640 --density 0.7 --documents 1 --questions 1 --tail 2 --rounds 1 --rules p_residual > /dev/null 2>&1; }
grep -q "KL of answers" "$work/table" || fail "no answers were measured"
[ "$(stat -c %s "$work/small")" -lt "$(($(stat -c %s "$work/whole") * 7 / 10))" ] || fail "int8 is not small"
again "$work/small" "$work/small2" || fail "cannot calibrate a calibrated file again"
cmp "$work/small" "$work/small2" || fail "calibrating again gave another file"

# Budgets belong to the temperatures they were searched with: without a rule to search, a file ends up with none.
run --calibrate "$work/calibrated" --out "$work/calibrated" --context 128 --documents 2 --questions 0 --tail 4 --rules "" \
  --corpus "$work/corpus" > "$work/table" 2> "$work/log"
tail -n 1 "$work/log" | grep -q "no budgets: --rules names none" || fail "a file without budgets is not said to be one"
grep -q "dual top-p" "$work/table" || fail "a calibration without a rule printed no table"
grep -q calibration_error "$work/calibrated" || fail "a calibration without a rule wrote no temperatures"
if grep -q budget_ "$work/calibrated"; then fail "budgets of other temperatures stayed in the file"; fi

# So it does with rules that the file cannot hold, and says so.
run --calibrate "$work/whole" --out "$work/calibrated" --context 128 --documents 2 --questions 0 --tail 4 --rounds 1 --rules fraction \
  --density 1 --corpus "$work/corpus" > "$work/table" 2> "$work/log"
grep -q "fraction per layer" "$work/table" || fail "calibration of fractions printed no table"
tail -n 1 "$work/log" | grep -q "no budgets: .* --rules fraction" || fail "a file cannot hold fractions, and nobody says so"
if grep -q budget_ "$work/calibrated"; then fail "a file holds budgets of fractions"; fi

# A model whose answers are no numbers has no best budget.
cp -r "$model" "$work/broken"
size=$(stat -c %s "$work/broken/model.safetensors")
printf '\300\177' | dd of="$work/broken/model.safetensors" bs=1 seek=$((size - 2)) conv=notrunc status=none
cp "$work/whole" "$work/kept"
refused "that is a number" run --model "$work/broken" --calibrate "$work/whole" --out "$work/kept" --context 128 --documents 2 \
  --questions 0 --tail 4 --rounds 1 --density 1 --corpus "$work/corpus"
cmp "$work/whole" "$work/kept" || fail "a calibration without figures changed the file"

# A choice for each KV head: another file, which calibrates like the first.
run --tokens 2560 --groups kv-heads --out "$work/apart"
grep -q '"groups":"2"' "$work/apart" || fail "the file does not say that it chooses for each KV head"
run --calibrate "$work/apart" --out "$work/apart" --context 128 --documents 2 --questions 0 --tail 4 --rounds 1 \
  --density 1 --corpus "$work/corpus" > "$work/table"
grep -q "p_residual per layer" "$work/table" || fail "calibration of a choice for each KV head printed no table"

refused "KV heads" run --out "$work/x" --groups 7
refused "a number or kv-heads" run --out "$work/x" --groups many
refused "not bf16 or int8" run --out "$work/x" --storage int7
refused "no room" run --calibrate "$work/whole" --out "$work/x" --context 128 --density 1
# The sinks and the recent tokens lie in 5 or 6 blocks of 39 or 40.
refused "density must be at least 0.151 at a --context of 640" run --calibrate "$work/whole" --out "$work/x" --context 640 \
  --questions 0
refused "densities must be at least" run --calibrate "$work/whole" --out "$work/x" --context 640 --questions 0 --density 0.7 \
  --densities 0.9,0.1
refused "a text with a question has only" "$distill" --model "$model" --backend cpu --corpus "$work/corpus" --calibrate "$work/whole" \
  --out "$work/x" --context 640 --density 1 --documents 1 --questions 1 --tail 630
refused "must not be negative" run --calibrate "$work/whole" --out "$work/x" --context 128 --questions -1
refused "questions must not" run --calibrate "$work/whole" --out "$work/x" --context 640 --questions 1500000000
refused "answer_weight must not" run --calibrate "$work/whole" --out "$work/x" --context 128 --questions 0 --answer_weight inf
refused "rounds must not" run --calibrate "$work/whole" --out "$work/x" --context 128 --questions 0 --rounds -1
refused "context must be at most the model's, 1024" run --calibrate "$work/whole" --out "$work/x" --context 1040 --questions 0
refused "context must not" run --calibrate "$work/whole" --out "$work/x" --context -128 --questions 0
refused "not p_residual" run --calibrate "$work/whole" --out "$work/x" --rules p_most
refused "density must be" run --calibrate "$work/whole" --out "$work/x" --density 1.5
refused "another model" "$distill" --model "$other" --backend cpu --corpus "$work/corpus" \
  --calibrate "$work/whole" --context 128 --density 1 --out "$work/x"
refused "is required" "$distill" --corpus "$work/corpus"
refused "not a regular file" run --out "$work/corpus"
refused "not a regular file" run --checkpoint /dev/null --out "$work/x"
refused "threads is 100000" run --threads 100000 --out "$work/x"
refused "threads is 100000" run --threads 100000 --calibrate "$work/whole" --context 128 --density 1 --questions 0 --out "$work/y"
refused "too few" run --length 30000 --out "$work/x"
refused "sequences" run --resume --sequences 1 --checkpoint "$work/part.checkpoint" --tokens 25600 --out "$work/x"
: > "$work/corpus/empty.txt"
refused "empty.txt is empty" run --out "$work/x"
printf 'a\0b' > "$work/corpus/empty.txt"
refused "binary" run --out "$work/x"
rm "$work/corpus/empty.txt"
refused "/nowhere/at/all" run --tokens 128 --out /nowhere/at/all/selector
[ ! -e "$work/x" ] || fail "a refused run left a file"
echo OK
