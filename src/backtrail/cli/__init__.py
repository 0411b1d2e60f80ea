"""The command line: a command for each stage, which engines run, and those that people ask. Each lies in a module of its own, which is
loaded only when it is called: a stage's code is what its own module imports, and `backtrail --help` answers at once.
"""

import copy
import importlib
import io
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from backtrail import __version__
from backtrail.cli.system_errors import open_standard_streams, system_error_sentence
from backtrail.errors import UserError
from backtrail.layout import PARAMS_FILE, PIPELINE_FILE

STAGES = {
    "code": "write one digest of the code of each stage to code.yaml",
    "fetch": "bring the data set's original files here, verified",
    "fetch-teacher": "bring the released teacher's files here, verified, where the suite imports one",
    "fetch-inception": "bring the files that FID needs here, verified, where the suite measures it",
    "dataset": "turn the originals into the array that the other stages read",
    "classifier": "train the small classifier whose features the curves are measured in",
    "reference": "feature statistics of the real images, and what the metric says of noised and blurred ones",
    "teacher": "train the teacher, or import it",
    "teacher-samples": "sample the teacher with its own solvers",
    "trajectories": "compute the teacher's trajectories that students are taught",
    "path": "record the degradation path of a student",
    "score-distillation": "train a one-step student along a path (Diff-Instruct, DisBack)",
    "trajectory-distillation": "train a few-step student on trajectories (Algorithm 1, SFD, SFD-v)",
    "samples": "sample a student",
    "metrics": "measure samples",
    "mismatch": "measure the mismatch degree over a student's training",
    "path-samples": "sample the nodes of a degradation path and the student's snapshots",
    "figures": "draw the figures",
    "figure-axis": "draw an axis of the ablations and say what it shows",
    "scaling": "train one size of the teacher for one budget, and measure it",
    "figure-scaling": "draw how good a teacher is by its size and budget",
    "tables": "write the tables",
    "report": "write the report page",
    "ledger": "gather the records of all stages into one file that git keeps",
    "ring-teacher": "train the teacher of a ring of Gaussians (suites/ring)",
    "ring-run": "record the path of a student on the ring, train it and measure it",
    "ring-figure": "draw the ring's figure and judge DisBack's claims on it",
    "text-fetch": "bring Fashion-MNIST and the text encoder here, verified (suites/fashion-text)",
    "text-fetch-teacher": "bring a published teacher of text to images here, verified, where the suite takes one over",
    "text-dataset": "colour the images and choose their captions",
    "text-captions": "encode each distinct caption once",
    "text-autoencoder": "train the first stage of the latent teacher",
    "text-latents": "encode the training images to latents",
    "text-judges": "train the judges of garment, colour and caption, and measure real images by them",
    "text-floor": "measure reconstructions of real images, the floor of every table",
    "text-teacher": "train the latent teacher of text to images",
    "text-one-step": "record the path of a one-step student of the latent teacher and train it",
    "text-few-step": "train a few-step student on the latent teacher's trajectories",
    "text-samples": "sample a latent model, decode and measure its images",
    "text-table": "write the table of text to images",
    "text-figures": "draw the figures of text to images",
    "latent-fetch": "bring a published latent teacher here, and what it is told and measured with, verified (suites/sd15, ...)",
    "latent-captions": "encode each distinct caption once, by the teacher's own text encoders",
    "latent-teacher": "read the published latent teacher",
    "latent-reference": "statistics of real images by each protocol, and the floor that the first stage sets",
    "latent-latents": "encode real images to latents, where a path is recorded",
    "latent-path": "record the degradation path of a student of a published latent teacher",
    "latent-one-step": "train a one-step student of a published latent teacher along a path",
    "latent-few-step": "train a few-step student on a published latent teacher's trajectories",
    "latent-samples": "sample a published latent teacher or its student, decode and measure the images",
    "latent-table": "write the table of a published latent teacher",
    "latent-figures": "draw the figures of a published latent teacher",
}
COMMANDS = {
    "new": "write the params.yaml of a suite for your own images, and a teacher of your own",
    "images": "images of a teacher or a student to look at, by seed",
    "results": "what was measured, in a screen",
    "curves": "training curves for TensorBoard, also while it trains",
    "why": "where a number comes from: its chain down to the data",
    "audit": "check every number against the bytes it comes from",
    "quote": "renew the numbers and texts that Markdown files quote from the results",
    "impact": "which numbers change if a file is wrong",
    "diff": "where two runs part",
    "reproduced": "how near this run came to the published results",
    "export": "an RO-Crate of the suite and model cards of its students",
    "dag": "the pipeline by kinds of stages, as text or a graph",
    "pipeline": "lay down the pipeline of the suite in this folder, or renew one that was laid down",
    "check": "check params.yaml as a whole, and run nothing",
    "plan": "say what a run would fetch, and about how many GPU-hours it would take",
    "scratch": "list the resume states of unfinished stages, or drop them",
}


class Commands(click.Group):
    """Finds a command in `backtrail.stages.<name>` or `backtrail.cli.<name>` when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *STAGES]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        room = "stages" if cmd_name in STAGES else "cli" if cmd_name in COMMANDS else None
        if room is None:
            return None
        found = importlib.import_module(f"backtrail.{room}.{cmd_name.replace('-', '_')}").command
        return _in_a_suite(found) if room == "stages" else found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in (("Commands", COMMANDS), ("Stages, which DVC and Snakemake run", STAGES)):
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))


def _in_a_suite(stage: click.Command) -> click.Command:
    """The command; outside of a suite's folder it says where to stand, and a suite of one params.yaml gets its pipeline."""
    made, run = copy.copy(stage), stage.callback

    def callback(*given: Any, **options: Any) -> Any:
        if not Path(PARAMS_FILE).exists():
            importlib.import_module("backtrail.parameters.base").read()  # raises the sentence that says so
        if not Path(PIPELINE_FILE).exists():
            importlib.import_module("backtrail.parameters.suite").read_suite()
            importlib.import_module("backtrail.laid_down").lay_down(Path.cwd())
        return run(*given, **options) if run else None

    made.callback = callback
    return made


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="backtrail")
def backtrail() -> None:
    """Distil diffusion models, stage by stage. Run in a suite's folder (where params.yaml lies); `dvc repro` calls these for you."""


def main() -> None:
    """Run a command; an error that the user can mend is one sentence and an exit code, without a traceback.

    What is left to end in a traceback is a fault of this package.
    """
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):  # a terminal or a log that is not UTF-8 shows ? for what it has no sign for
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every table of every font that it embeds
    try:
        backtrail(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        _fail("interrupted", 130)
    except UserError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:  # `| head`: whoever read what we print has seen enough; where click prints it does the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain once more when it ends
        sys.exit(1)
    except (OSError, UnicodeDecodeError, MemoryError, RuntimeError) as error:
        sentence = system_error_sentence(error)
        if sentence is None:
            raise
        _fail(sentence, 4)


def _fail(message: str, exit_code: int) -> None:
    print(f"backtrail: {message}", file=sys.stderr)
    sys.exit(exit_code)
