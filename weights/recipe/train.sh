#!/usr/bin/env bash
# Every stage of the embedded model in order, into OUT (default: out). Each resumes where it stopped, so this may be
# interrupted and started again. STEPS, COOLDOWN and BATCH are those of the UNet, which takes nearly all the time.
set -euo pipefail
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-out}
STEPS=${STEPS:-12000}
COOLDOWN=${COOLDOWN:-$((STEPS * 3 / 4))}
BATCH=${BATCH:-24}
export GOMP_SPINCOUNT=1000 # threads that spin for long at barriers rob each other of their cores

stage() {
  echo "== $1"
  "$PYTHON" -m "weights.recipe.$@"
}

[ -e "$OUT/train/pictures.npy" ] || stage dataset --out "$OUT/train" --num 30000 --first-seed 0 --workers "$(nproc)"
[ -e "$OUT/held-out/pictures.npy" ] ||
  stage dataset --out "$OUT/held-out" --num 2000 --first-seed 10000000 --workers "$(nproc)"
[ -e "$OUT/tokenizer/vocab.json" ] || stage tokenizer --data "$OUT/train" --out "$OUT/tokenizer"
stage train_vae --data "$OUT/train" --out "$OUT/runs/vae" --steps 1200 --cooldown-from 850 --whole-from 1100
stage train_text --data "$OUT/train" --tokenizer "$OUT/tokenizer" --out "$OUT/runs/text" --steps 400 --cooldown-from 200
[ -e "$OUT/latents/preview.json" ] ||
  stage latents --data "$OUT/train" --held-out "$OUT/held-out" --vae "$OUT/runs/vae" --out "$OUT/latents"
unet() {
  stage train_unet --data "$OUT/train" --latents "$OUT/latents" --tokenizer "$OUT/tokenizer" --text "$OUT/runs/text" \
    --out "$OUT/runs/unet" --batch "$BATCH" "$@"
}
if [ ! -e "$OUT/runs/unet-weak" ]; then # what the few-step adapter's teacher is guided away from
  unet --steps $((STEPS * 3 / 8))
  mkdir "$OUT/runs/unet-weak.new"
  cp "$OUT/runs/unet/checkpoint.pt" "$OUT/runs/unet-weak.new"
  mv "$OUT/runs/unet-weak.new" "$OUT/runs/unet-weak"
fi
unet --steps "$STEPS" --cooldown-from "$COOLDOWN"
stage export --tokenizer "$OUT/tokenizer" --latents "$OUT/latents" --unet "$OUT/runs/unet" --out weights/mini
"$PYTHON" -m weights.registry --update mini
stage evaluate --model weights/mini --grid docs/pictures/grid.png
[ -e "$OUT/train/round_trips.npy" ] ||
  stage part_maps --data "$OUT/train" --num 14000 --workers "$(nproc)" --vae weights/mini/vae --num-round-trips 1500
for rate in "--lr 2e-3 --steps 1200" "--lr 1e-3 --steps 2850 --cooldown-from 1200"; do # see LOG.md
  # shellcheck disable=SC2086 # two or three flags each
  stage train_perception --data "$OUT/train" --tokenizer weights/mini/tokenizer --text weights/mini/text_encoder \
    --out "$OUT/runs/perception" --warmup 100 $rate
done
# Twice more from there, by other ways: the mean of the three is better than each of them.
for more in "a --lr 5e-4 --steps 3110 --cooldown-from 2860" "b --lr 1e-3 --steps 3720 --cooldown-from 2900"; do
  name=perception-${more%% *}
  [ -e "$OUT/runs/$name" ] || cp -r "$OUT/runs/perception" "$OUT/runs/$name"
  # shellcheck disable=SC2086
  stage train_perception --data "$OUT/train" --tokenizer weights/mini/tokenizer --text weights/mini/text_encoder \
    --out "$OUT/runs/$name" --warmup 100 ${more#* }
done
stage export_perception --tokenizer weights/mini/tokenizer --out weights/mini/clipseg \
  --run "$OUT/runs/perception" "$OUT/runs/perception-a" "$OUT/runs/perception-b"
"$PYTHON" -m weights.registry --update mini
stage evaluate_perception --run "$OUT/runs/perception" --sheet docs/pictures/masks.png
"$PYTHON" -m weights.registry --update mini
few_step() {
  stage train_few_step --out "$OUT/runs/few-step" --pairs "$@"
}
trajectories() {
  stage trajectories --data "$OUT/train" --weak "$OUT/runs/unet-weak" --guidance 2.5 --processes "$(nproc)" "$@"
}
trajectories --out "$OUT/pairs" --num 720 --substeps 5
if [ ! -e "$OUT/first" ]; then
  few_step "$OUT/pairs" --lr 2e-3 --warmup 20 --steps 500 --cooldown-from 250
  stage export_few_step --run "$OUT/runs/few-step" --out "$OUT/first.new"
  mv "$OUT/first.new" "$OUT/first"
fi
trajectories --out "$OUT/own-way" --first 100000 --num 600 --substeps 4 \
  --student "$OUT/first/pytorch_lora_weights.safetensors"
few_step "$OUT/pairs" "$OUT/own-way" --lr 1.5e-3 --steps 1500 --cooldown-from 1000
stage export_few_step --run "$OUT/runs/few-step"
stage evaluate_few_step --grid docs/pictures/few-step.png
stage model_card --model weights/mini --runs "$OUT/runs"
"$PYTHON" -m weights.registry --update mini
