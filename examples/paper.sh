#!/usr/bin/env bash
# A table for a paper on a cluster: a loss and a model of one's own, 24 runs, accidents, a search, LaTeX, a repetition.
#
#   bash examples/paper.sh CAMVID
#
# CAMVID is the folder of CamVid (train/, trainannot/, val/, ...), of which a twelfth is used. Runs are jobs of SLURM
# where sbatch is there, else processes of joblib. Takes 4 to 6 minutes on two quiet CPU cores; the scores mean nothing
# after so little training. Call it from any empty folder, which all machines see, with segrun and its python on PATH.
# The package is examples/mylab, which is copied: the loss, the model, and what stands in its conf/.
set -euo pipefail

step() { printf '\n== %s\n' "$*"; }
refuse() { echo "paper.sh: $*" >&2; exit 2; }

[[ $# -eq 1 && -d $1/train && -d $1/trainannot ]] || refuse "type paper.sh DIR, the folder of CamVid with train/ and trainannot/ in it."
command -v segrun >/dev/null || refuse "segrun is not on PATH. Type make install, then: export PATH=REPOSITORY/.venv/bin:\$PATH"
[[ ! -e outputs && ! -e mylab && ! -e data ]] || refuse "this folder holds outputs/, mylab/ or data/ already. Call it from an empty one."
camvid=$(cd "$1" && pwd)
examples=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OMP_NUM_THREADS=1

step "Every twelfth frame of CamVid: the folders are links, the lists are shorter"
mkdir -p data/camvid
for split in train val test; do
    ln -s "$camvid/$split" "$camvid/${split}annot" data/camvid/
    (cd "$camvid/$split" && printf '%s\n' *) | sed 's/\.[a-z]*$//' | awk 'NR % 12 == 1' >"data/camvid/$split.txt"
done
wc -l data/camvid/*.txt

step "A package of one's own. PYTHONPATH is where Python finds it, here and in the jobs"
cp -r "$examples/mylab" mylab
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
ls mylab mylab/conf/*
own=(--config-dir mylab/conf)

step "Is it found? The loss in the list, and the model in a plan of what would happen"
segrun list losses "${own[@]}" | grep poly1
segrun plan "${own[@]}" experiment=camvid_tiny model=lraspp loss=ce+poly1

if command -v sbatch >/dev/null && sinfo >/dev/null 2>&1; then
    step "SLURM is here: jobs go there, two at a time, with a core each and no GPU"
    where=(hydra/launcher=slurm hydra.launcher.gpus_per_node=0 hydra.launcher.cpus_per_task=1 hydra.launcher.mem_gb=2
        hydra.launcher.timeout_min=20 hydra.launcher.array_parallelism=2)
else
    step "There is no SLURM here, so jobs run on this machine, two at a time, by joblib"
    where=(hydra/launcher=joblib hydra.launcher.n_jobs=2)
fi
matrix=(segrun "${own[@]}" benchmark=paper "${where[@]}")

running() { # the process of a run that is being made; status.json of each run names it
    python - <<'PY'
import json
from pathlib import Path

for path in sorted(Path("outputs/paper").glob("*/status.json")):
    status = json.loads(path.read_text())
    if status["state"] == "running" and status["epoch"] >= 1:
        print(status["process"]["pid"])
        break
PY
}

step "The benchmark: four models, two losses, three seeds. ${matrix[*]}"
"${matrix[@]}" >matrix.txt 2>&1 &
parent=$!
for _ in $(seq 600); do
    victim=$(running)
    [[ -z $victim ]] || break
    sleep 0.5
done
[[ -n $victim ]] || refuse "no run has begun within five minutes: $(tail -5 matrix.txt)"

step "An accident: a job is killed hard (kill -9). segrun status says so"
kill -9 "$victim"
sleep 5
segrun status

step "Another one: what sends the jobs off is killed, too. Those that run go on; cancel ends them, after they have saved"
kill -9 "$parent"
wait "$parent" 2>/dev/null || true
cat matrix.txt
segrun cancel outputs/.sweeps --yes

step "The same command again: what is finished is skipped, what was begun is gone on with, the rest is made"
"${matrix[@]}"

step "And once more: nothing is left to do"
"${matrix[@]}" | sed -n 1,3p

step "A search for the best loss and learning rate, with two workers. Trials are runs, too"
segrun tune "${own[@]}" sweep=poly1 experiment=camvid_tiny model=lraspp name=search workers=2 "${where[@]}"

step "The table for the paper, in LaTeX with its notes (\\usepackage{booktabs}), and as a page to look at"
segrun table outputs/paper --rows model,loss --columns miou,pixel_accuracy --show std,p --out paper.tex
cat paper.tex
segrun report outputs/paper

step "Does the table still follow from the runs? And is a row's run the same when it is made again?"
segrun table outputs/paper --check paper.tex
run=$(grep -l 'mylab.losses.Poly1' outputs/paper/*/config.yaml | head -1)
segrun rerun "$(dirname "$run")" --verify

step "Made: paper.tex, the table; outputs/paper/report.html, the page; outputs/search/best.yaml, the best settings"
echo "The runs are in outputs/paper, those of the search in outputs/search; logs of SLURM in outputs/.sweeps/*/.submitit."
