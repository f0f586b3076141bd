#!/usr/bin/env bash
# A first hour with segrun in a few minutes (at most five on two quiet cores): a threshold, a network, another loss, two
# ways to upsample, a training that is stopped and goes on, and at the end a table and a page that compare them all.
#
# How to call it, from any folder that may be written to, with segrun on the PATH (". .venv/bin/activate" in the clone):
#     bash PATH/TO/examples/learn.sh
# It needs no data set, no GPU and no network: the scenes are drawn. Everything lies in outputs/learn/ below the folder
# it is called from, and a second call begins with an empty folder of its own, outputs/learn_<time>/.
# The scores are low, since four epochs on 128 small pictures are few; the tour in docs/ takes twelve on 256.
set -euo pipefail

if ! command -v segrun >/dev/null; then
    echo "segrun is not on the PATH. Type in the clone: make install && . .venv/bin/activate" >&2
    exit 2
fi
name=learn
if [ -e outputs/learn ]; then name="learn_$(date +%Y-%m-%d_%H-%M-%S)"; fi
runs="outputs/$name"
# experiment=tour are the drawn scenes of the tour; the rest makes them fewer. One place, so that all runs are alike.
small=(experiment=tour "name=$name" data.train=128 data.val=32 data.test=64 trainer.max_epochs=4 trainer.validate_every=2)

say() { printf '\n== %s\n' "$*"; }

say "What losses are there? 'segrun list' alone shows every group, 'segrun list GROUP' one of them."
segrun list losses

say "What would a training do? 'plan' answers in seconds and trains nothing."
segrun plan model=unet "${small[@]}"

say "The oldest idea first: thresholds on brightness. No training, and nearly everything becomes ground."
segrun model=threshold "${small[@]}" "run_dir=$runs/threshold"

say "A network: a U-Net with cross-entropy, which is the default loss."
segrun model=unet "${small[@]}" "run_dir=$runs/unet"

say "The same with another loss, and nothing else changed: dice for the rare classes, focal for the hard pixels."
segrun model=unet loss=dice+focal "${small[@]}" "run_dir=$runs/unet_dice_focal"

say "Two ways to upsample in one decoder: -m makes a run of each value between the commas."
segrun -m model=unet model.upsample=bilinear,transposed "${small[@]}"

say "Ctrl-C in the middle of a training: it stops at the next step, and keeps where it was."
set -m # a job of its own, which Ctrl-C (the signal INT) reaches
segrun model=fpn "${small[@]}" "run_dir=$runs/fpn" &
until [ -e "$runs/fpn/checkpoints/last.ckpt" ] || ! kill -0 $! 2>/dev/null; do sleep 0.2; done
kill -INT $! 2>/dev/null || true
status=0
wait $! || status=$?
set +m
echo "its exit status is $status (130: interrupted, and the message above says what to type)"

if [ "$status" -eq 130 ]; then
    say "Go on: from the very step, so the scores are those of a training that nobody stopped."
    segrun resume "$runs/fpn"
fi

say "Which was best, and does the data say so? A row is what differs; bold (*) is what the test images cannot tell apart."
segrun table "$runs" --rows model,loss,model.upsample

say "The same to look at: one page with curves, pictures and any two runs side by side."
segrun report "$runs"

say "Made: $runs"
echo "  $runs/report.html                        open it in a browser"
echo "  $runs/unet/figures/predictions.png       image, truth, prediction and errors"
echo "  $runs/threshold/figures/histogram.png    why a threshold fails here"
