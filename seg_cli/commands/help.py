"""``segrun --help`` and ``segrun VERB --help``, written by hand; only the choices are read from conf/."""

import re
import textwrap

from seg_cli.config.choices import choices, groups

_OVERVIEW = """\
segrun: semantic-segmentation experiments from the command line

  segrun [VERB] [GROUP=CHOICE ...] [KEY=VALUE ...] [FLAGS]

Verbs
  train     train a model and score its best checkpoint; what segrun does without a verb
  plan      what would happen: stages, steps, parameters, memory, time; nothing is trained
  resume    go on with a run that was interrupted, killed or failed
  rerun     make a run again from what it recorded; is it the same?
  status    how far the runs of a matrix or a folder are; a live table with --follow
  cancel    end what is running there; it can be gone on with
  eval      score a run again, on any split
  predict   masks and overlays for image files, by a run or an exported model
  export    a run's model as an ONNX file, compared with the model before it is kept
  tune      search for settings: learning rates, losses, models; any number of workers
  check     is a dataset sound? counts, labels, leaks, class shares, and a picture sheet
  table     the scores of many runs, with intervals and tests; bold only where the data says so
  report    one HTML file of a run, or of all runs below a folder, to look at and to send
  list      what there is to choose from, with a line on each
  doctor    versions, devices, and what is missing

Examples
  segrun                                            U-Net on drawn scenes, without a download
  segrun model=deeplabv3plus loss=dice+focal        choose the model; sum two losses
  segrun 'loss=ce+2*dice' augment=geometry+color    weigh the terms (quote the *)
  segrun data=camvid data.root=DIR                  train on CamVid; see also SEGRUN_DATA
  segrun encoder.name=convnext_tiny encoder.weights=imagenet
                                                    any timm encoder, pretrained
  segrun experiment=camvid_cpu                      a shipped recipe
  segrun loader.batch_size=8 trainer.max_epochs=5 precision=fp32
                                                    settings of the run
  segrun -m model=unet,deeplabv3plus seed=0,1,2     a run for every combination
  segrun -m model=unet model.upsample=nearest,transposed name=up && segrun table outputs/up
                                                    two ways to upsample, compared
  segrun model=unet --cfg job                       show the config, and run nothing
  segrun plan model=unet data=camvid data.root=DIR  what a run would do, and need
  segrun check data=camvid data.root=DIR            find what is wrong with the data before training
  segrun eval run=RUN                               score a run again
  segrun predict run=RUN input=photos out=DIR       masks and overlays for a folder of images
  segrun export run=RUN out=model.onnx              a file that runs without this program
  segrun resume RUN                                 go on with a run that did not come to its end
"""

_CLOSING = """\
Flags
  -m, --multirun        a run for every combination of the values with commas
  --cfg job             print the composed config and stop
  --config-dir DIR      your own choices: DIR/model/mine.yaml makes model=mine
  --info, --hydra-help  what Hydra knows
  --completion SHELL    print a completion script for bash, zsh or fish
  --version

Read on: segrun VERB --help, segrun list, and docs/ in the repository.
Exit status: 0 done, 1 the run failed, 2 the request was wrong, 130 interrupted.
HYDRA_FULL_ERROR=1 shows tracebacks."""

_VERBS = {
    "train": """\
segrun [train] [GROUP=CHOICE ...] [KEY=VALUE ...] [FLAGS]

Trains a model, scores its best checkpoint on val and test, and leaves a run directory in outputs/ with the
config, the environment, the scores, the checkpoints and figures.

  segrun model=unet data=camvid data.root=DIR
  segrun data=camvid loader.crop=[256,256] loader.batch_size=8 trainer.max_epochs=40
  segrun optimizer.lr=1e-3 seed=1 name=my_first tags=[draft]
  segrun run_dir=outputs/here                        a folder of your own choice, which must be new

A dataset is looked for in data.root, by default $SEGRUN_DATA/<name>.
All keys with their values: segrun --cfg job
""",
    "plan": """\
segrun plan [GROUP=CHOICE ...] [KEY=VALUE ...] [--time] [--largest-batch] [--find-lr] [FLAGS]

Says what a training with these options would do, and trains nothing: its stages with the size of images, batches and
steps, the parts of the model and when each of them learns, operations, and about how much memory a step needs.

  segrun plan model=deeplabv3plus data=camvid data.root=DIR resize=progressive finetune=gradual
  segrun plan data=camvid --time                     and how long it takes, from three steps of each stage
  segrun plan data=camvid --largest-batch            and which loader.batch_size fits into memory
  segrun plan data=camvid --find-lr out=my_lr        and which optimizer.lr: a table and a picture of the loss as
                                                     the learning rate grows (Smith 2015, arXiv:1506.01186)
  segrun plan --cfg job                              all keys with their values: those of train, and a few more

Without out=DIR, --find-lr leaves its files in outputs/plans/<name>/<time>/, and a plan leaves none.
""",
    "eval": """\
segrun eval run=RUN [KEY=VALUE ...] [FLAGS]

Scores a run again, on any split. RUN is its run directory, whose own results stay as they are.

  segrun eval run=outputs/camvid/2026-01-31_12-00-00
  segrun eval run=RUN split=[val,test] checkpoint=last
  segrun eval run=RUN data.root=DIR                  where the data is now
  segrun eval --cfg job                              all keys with their values
""",
    "predict": """\
segrun predict run=RUN input=PATH out=DIR [KEY=VALUE ...] [FLAGS]
segrun predict model=FILE.onnx input=PATH out=DIR [KEY=VALUE ...]

Labels image files. PATH is an image, a folder (with all that is below it) or a pattern in quotes. In DIR, masks/ has
the class indices with the colours of the classes, overlays/ these colours over the pictures, labels.json and
legend.png what the colours mean; names, subfolders and sizes are those of the images. A file that cannot be read is
named and left out, and the exit status is then 1.

  segrun predict run=RUN input=photos out=predictions
  segrun predict run=RUN 'input=photos/**/*.jpg' out=predictions save=[mask,overlay,probabilities,classes]
  segrun predict run=RUN input=photos out=predictions tta=flip+scale inference=sliding postprocess=components
  segrun predict run=RUN input=photos out=predictions overwrite=true
                                                     over earlier predictions
  segrun predict model=model.onnx input=photos out=predictions
                                                     with a file of segrun export, without PyTorch
  segrun predict --cfg job                           all keys with their values
""",
    "export": """\
segrun export run=RUN [out=FILE] [format=onnx|torch_export] [KEY=VALUE ...] [FLAGS]

Writes the model of a run as a program of its own: float32 pixel values (batch, bands, height, width) in 0..255 in,
logits out, of any batch and size, with the names and colours of the classes in its metadata. It is compared with the
model on images of val, and kept only if it says the same.

  segrun export run=RUN format=onnx                  to RUN/model.onnx
  segrun export run=RUN out=model.onnx size=[512,1024]
                                                     for images of one size alone
  segrun export run=RUN out=model.pt2 format=torch_export
                                                     for torch.export.load
  segrun export --cfg job                            all keys with their values
""",
    "tune": """\
segrun tune sweep=NAME [workers=N] [KEY=VALUE ...] [FLAGS]

Trains with one setting after the other, chosen by what came of those before, until as many trials are finished as the
sweep asks for. The same command goes on with what there is; typed on another machine, it is one more worker. Every
trial is a run in outputs/<name>/, beside the table, pictures, and the best one as an experiment.

  segrun tune sweep=lr_wd                            learning rate and weight decay of the default training
  segrun tune sweep=lr_wd experiment=camvid_cpu name=camvid_lr workers=2
                                                     of any other; two trials at a time on this machine
  segrun tune sweep=architecture workers=8 hydra/launcher=joblib
                                                     or as jobs of a launcher
  segrun tune sweep=lr_wd sweep.trials=40 sweep.sampler=random sweep.pruner=none sweep.space.optimizer.lr.high=0.1
  segrun tune sweep=lr_wd storage=postgresql://USER@HOST/DATABASE
                                                     for machines without a common file system
  segrun --config-dir outputs/lr_wd experiment=best  the best one again
  segrun tune --cfg job                              all keys with their values: those of train, and a few more
""",
    "check": """\
segrun check [data=NAME] [KEY=VALUE ...] [--sheet] [FLAGS]

Reads a whole dataset and says what is wrong with it: broken files, masks that do not fit, labels that are not
defined, the same or nearly the same picture in two splits, groups that are spread over splits, classes that are
missing. Shows the share of each class and the weights that follow. Leaves check.json and sheet.png in
outputs/checks/<name>/<time>/. Exit status 1 when an error is found; warnings leave it at 0.

  segrun check data=camvid data.root=DIR
  segrun check data=camvid augment=geometry+color loader.crop=[256,256] --sheet
                                                     draw augmented samples too
  segrun check data=camvid samples=16 out=my_check   more pictures, in a folder of your own choice
  segrun check --cfg job                             all keys with their values
""",
    "resume": """\
segrun resume RUN [KEY=VALUE ...] [--accept-changes]

Goes on with a run in its run directory, from its last checkpoint, as if it had never stopped: no batch is seen
twice or skipped, and the scores are those of a run that was left alone. A checkpoint that is broken is named, and
the one before it is used.

  segrun resume outputs/camvid/2026-01-31_12-00-00
  segrun resume RUN trainer.devices=1 loader.workers=4 data.root=DIR
                                                     where and how it is computed may change
  segrun resume RUN logger=csv trainer=cpu_ddp       so may the logger, and devices by their choice
  segrun resume RUN trainer.max_epochs=80 --accept-changes
                                                     what changes the result has to be accepted
""",
    "rerun": """\
segrun rerun RUN [KEY=VALUE ...] [--verify [--tolerance X]]
segrun rerun RUN --verify --against OTHER [--tolerance X]

Makes a run again from its config.yaml, in a new run directory; the run itself is only read. With --verify the two are
compared: every step's loss, every epoch, the weights, the counts and scores. On the same machine with the same versions
they must be the same bit for bit, elsewhere the first loss within 1% and the scores within X, 0.02 by default. What
differs first is named, and what differs in the environment. Exit status 0 the same, 1 not.

  segrun rerun outputs/camvid/2026-01-31_12-00-00 --verify
  segrun rerun RUN --verify data.root=DIR loader.workers=4
                                                     where and how it is computed may change
  segrun rerun RUN --verify --against OTHER          compare two finished runs; nothing is trained
""",
    "status": """\
segrun status [DIR] [--follow]

How far the runs of a matrix are, wherever they are run: state, epoch, mIoU, time left, host, when they were last heard
of. DIR is the folder of a matrix, by default the newest in outputs/.sweeps, or a folder with runs, or one run.

  segrun status                                      the newest matrix
  segrun status outputs/camvid                       all runs of that name
  segrun status --follow                             look again every two seconds, until all have ended
""",
    "cancel": """\
segrun cancel DIR [--yes]

Ends what is running in a folder: the matrix itself, processes on this machine, jobs of SLURM, those in its queue too.
They are given time to save, and the command that began them goes on. DIR is as for status.

  segrun cancel outputs/.sweeps/2026-01-31_12-00-00
  segrun cancel outputs/camvid --yes                 without being asked
""",
    "report": """\
segrun report RUN|DIR [--out FILE.html] [--split test]

Writes one HTML file, which opens offline and holds all that it shows. Of a run: scores, examples with a slider between
truth and prediction, classes with intervals, confusions, curves, settings against their parent, environment, cost. Of
a folder: methods with their statistics, a leaderboard to sort and filter, curves, parallel coordinates, and any two
runs image by image.

  segrun report outputs/camvid/2026-01-31_12-00-00   RUN/report.html
  segrun report outputs                              outputs/report.html, of all runs below it
  segrun report outputs/camvid --split val --out camvid.html
""",
    "table": """\
segrun table DIR ... [--rows KEY,...] [--columns NAME,...] [--split test] [--sort NAME] [--filter KEY=VALUE ...]
             [--format terminal|markdown|latex|csv|html|json] [--out FILE] [--figures DIR] [--check FILE]
             [--wandb [ENTITY/]PROJECT]

Puts the finished runs below folders into a table: a row is the seeds of one experiment, with the mean, its spread over
seeds, an interval and a paired test over the images. Bold are the best and all that the data cannot tell from it.

  segrun table outputs
  segrun table outputs --rows model.upsample         any setting can be what is compared
  segrun table outputs/camvid --rows model,loss --columns miou,iou:Car,parameters,images_per_second
  segrun table outputs --rows model,optimizer.lr --filter data=camvid seed=0,1,2
                                                     a row is made of choices and settings
  segrun table outputs --per-class --underline-second
  segrun table outputs --out paper.tex               also .md .csv .html .json; --format says it too
  segrun table outputs --check paper.csv             does it still follow from the runs? 1 where not
  segrun table outputs --figures plots               critical differences; quality against speed
  segrun table outputs --eval flip                   scores of RUN/eval/flip instead
  segrun table outputs --wandb PROJECT               as an artifact of W&B, too

  --show std,ci,difference,p    what stands beside a mean; none
  --level .95                   of the intervals
  --allow data,void,resolution,pretrained
                                compare what cannot be compared; the table says so
""",
    "list": """\
segrun list [GROUP ...] [--json] [--config-dir DIR] [--timm PATTERN]
segrun list models --cost [--size HEIGHTxWIDTH] [--encoder NAME]

Lists what there is to choose from, with a line on each: all groups, or the given ones by any of their names
(loss, losses).

  segrun list
  segrun list models losses
  segrun list upsamplings                            what model.upsample= takes
  segrun list encoders --timm 'convnext*'            search all encoders that timm has
  segrun list losses --config-dir my_conf            with your own
  segrun list models --cost                          parameters, operations and latency of all, on this machine
  segrun list models --cost --size 512x1024 --encoder resnet50
""",
    "doctor": """\
segrun doctor [--json]

Says which versions, devices and datasets there are, what is missing, and what to type about it. Exit status 1
when something that every run needs is broken.
""",
}

VERBS = tuple(_VERBS)


def help_text(verb: str | None) -> str:
    """The help on a verb, or the overview with all groups."""
    if verb is None:
        return f"{_OVERVIEW}\n{_groups()}\n{_CLOSING}"
    return f"{_VERBS[verb]}\n{_groups()}" if verb == "train" else _VERBS[verb].rstrip()


def _groups() -> str:
    lines = ["Groups and their choices (segrun list says more)"]
    width = max(map(len, groups()))
    for group in groups():
        names = ", ".join(dict.fromkeys(re.sub("/.*", "/...", choice.name) for choice in choices(group)))
        head = f"  {group:<{width}}  "
        lines.append(textwrap.fill(names, 100, initial_indent=head, subsequent_indent=" " * len(head)))
    return "\n".join(lines) + "\n"
