#!/usr/bin/env bash
# Teach, assess, record and distil a causal language model from the command line, on text that is made here.
# $ bash examples/language_model_commands.sh
set -euo pipefail

# Yours: a text, or documents in .jsonl, .csv or .parquet.
for n in $(seq 300); do
    printf '{"text": "%s and %s make %s"}\n' $((n % 7)) $((n % 5)) $((n % 7 + n % 5))
done >sums.jsonl

data=(data.path=sums.jsonl data.length=64 training.epochs=8)
preceptor teach teach-tokens "${data[@]}" model.width=32 model.depth=1 --out teacher
preceptor assess teacher teacher:best                     # by document, before a student is trained
preceptor record teacher:best --form sampled --k 16 --out recorded
preceptor distill distill-tokens "${data[@]}" model.width=16 model.depth=1 --teacher recorded --out student
preceptor assess teacher student
