"""The command `gcl`: thin steps around the library; settings are derived from its dataclasses."""

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from gcl_toolkit.cli.common import app, console, parsed
from gcl_toolkit.errors import UserError

COMMANDS = {
    "data": ("data", "Check data, import data, generate data."),
    "doctor": ("doctor", "Versions, device, free disk and memory, what is missing, and how long the demo will take."),
    "demo": ("studies", "Generate the shop, train the main methods, evaluate on four splits, write a report."),
    "compare": ("studies", "Train and compare methods on your data; every gain names its control."),
    "compare-runs": ("compare_runs", "Compare the rankings of two to five systems: a verdict and a report in HTML."),
    "lab": ("studies", "Compare all methods: the controls, the losses of others and ours."),
    "report": ("studies", "Write the report of a study again, or that of one run of gcl train."),
    "slices": ("studies", "Where a method of a study gains over its control: head and tail, categories, query length."),
    "space": ("bundle", "The app as a hosted demo."),
    "bundle": ("bundle", "Put everything that the app needs of a study, or of some rankings (--run), into one folder."),
    "app": ("bundle", "Explore a bundle, or rankings (--run), in the browser; without either, a small shop is made."),
    "curate": ("curate", "Make a ranked data set of a domain: queries, products, pictures, scores, four splits."),
    "judge": ("judge", "Let a language model grade the unjudged products that two to five systems show."),
    "clicks": ("clicks", "Turn an interaction log into scored pairs, corrected for position bias."),
    "embed": ("embed", "Compute vectors of texts and pictures once, or import them, to train adapters on."),
    "evaluate": ("evaluate", "Evaluate a model: every metric with its interval over queries, split by split."),
    "search": ("search", "The best products for a text, by default from the held-out documents of the data."),
    "export": ("publish", "Export a trained model for open_clip, transformers or ONNX runtimes, with a model card."),
    "push": ("publish", "Upload an exported model to the Hugging Face hub, with the token in HF_TOKEN."),
    "index": ("publish", "Embed a split's products, write them to a vector store and compare it with exact search."),
    "stages": ("stages", "One stage or two: the default method alone, or first stages with a re-ranker."),
    "teach": ("teach", "Grade the exercises of the notebooks."),
    "train": ("train", "Train one model on the in_domain split of some data; with torchrun, on many GPUs."),
}
"""Name -> its module, and the first line of its help. Only the module of the command that is run is imported."""
for _name, (_, _help) in COMMANDS.items():
    app.command(name=_name, help=_help)(lambda: None)  # replaced when its module is imported


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. A user's mistake is one line and exit status 2."""
    words = sys.argv[1:] if arguments is None else [*arguments]
    name = next(iter(words), "")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.print(f"note: {message}")
            if name in COMMANDS:
                import_module(f"{__name__}.{COMMANDS[name][0]}")
            try:
                parsed(words, name if name in COMMANDS else "")()
            finally:
                sys.stdout.flush()
    except UserError as error:
        print(f"gcl: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `gcl ... | head` has seen enough; also what is still to be flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("gcl: stopped; the same command continues after the last finished run", file=sys.stderr)
        sys.exit(130)
