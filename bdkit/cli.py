"""The command line: `bdkit COMMAND ...`. Only the chosen command's module is imported, so help answers at once."""

import argparse
import difflib
import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from types import ModuleType
from typing import NoReturn

from bdkit import __version__
from bdkit.utils.errors import InputError
from bdkit.utils.io import is_unicode, printable

# name -> (module with add_arguments and run, help); the rest of the module's docstring is the help's last part
COMMANDS = {
    "generate": ("bdkit.commands.generate", "generate images of a subject in new contexts"),
    "edit": ("bdkit.commands.edit", "put your subject, or other words, into an image that otherwise stays"),
    "stylize": ("bdkit.commands.stylize", "draw a subject in the shape of another object"),
    "interpolate": ("eval.commands.interpolate", "generate images between two subjects: a strip and a GIF"),
    "attention": ("eval.commands.attention", "see where each subject vector and each word looks"),
    "finetune": ("bdkit.commands.finetune", "teach the model your own subject in a few steps"),
    "prepare": ("bdkit.commands.prepare", "turn images with captions into shards to train on"),
    "bench": ("eval.commands.bench", "fit, generate and score every method of the paper's table"),
    "reproduce": ("eval.commands.reproduce", "answer the paper's research questions, each by a CSV and a plot"),
    "score": ("eval.commands.score", "score a folder of images"),
    "protocols": ("eval.commands.protocols", "list the scoring protocols and how they differ"),
    "table": ("eval.commands.table", "make the table from finished scores"),
    "report": ("eval.commands.report", "make tables, plots and an HTML report from finished scores"),
    "push": ("eval.commands.push", "put a model on the Hugging Face hub, with a card of its scores"),
    "pretrain": ("bdkit.commands.pretrain", "train the mini model from scratch, all stages or one"),
    "train-evaluators": ("eval.commands.train_evaluators", "train the networks that score the mini world"),
    "convert": ("bdkit.commands.convert", "convert a checkpoint to another format: public diffusers, LAVIS or bdkit's"),
    "app": ("eval.commands.app", "a page to draw, teach, edit, look and compare in"),
    "world": ("bdkit.commands.world", "look at the procedural mini world"),
    "fetch": ("bdkit.commands.fetch", "download the DreamBench photos"),
}
# What the system says of a path that a user gave -> what to do
PATH_ERRORS = {
    errno.EACCES: "permission denied; choose a place you can read and write",
    errno.EPERM: "permission denied; choose a place you can read and write",
    errno.EROFS: "permission denied, the disk is read-only; choose a place you can read and write",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOTDIR: "not a directory; a part of this path is a file",
    errno.EISDIR: "is a directory; name a file",
    errno.ELOOP: "a link that leads to itself; choose another place",
    errno.EEXIST: "something else is there already, such as a link to nothing; choose another place",
}
LONGEST_SHOWN = 200
EXIT_INPUT = 2
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error as one line.

    Attributes:
        flags: of the chosen command.
    """

    flags: Collection[str] = ()

    def flags_like(self, unknown: str) -> list[str]:
        """The chosen command's flags that end or begin like an unknown one (--steps: --num-inference-steps), else
        those that are spelt alike; three at most.
        """
        name = unknown.partition("=")[0].lstrip("-")
        parts = [flag for flag in self.flags if flag.startswith(f"--{name}-") or flag.endswith(f"-{name}")]
        return (parts or difflib.get_close_matches(f"--{name}", self.flags))[:3]

    def error(self, message: str) -> NoReturn:
        """Raises InputError with argparse's message and a pointer to the help."""
        raise InputError(f"{message}; see '{self.prog} --help'")


def build_parser(command: str | None = None, arguments: Sequence[str] = ()) -> Parser:
    """The parser with every command's name and help, and the arguments and examples of `command` alone.

    arguments: the command line, for a command whose flags depend on others' values: its module has
        `add_dependent_arguments(parser, arguments)` besides.
    """
    parser = Parser(
        prog="bdkit",
        description="BLIP-Diffusion: pre-training, few-step fine-tuning and the DreamBench benchmark.",
        epilog="'bdkit COMMAND --help' shows a command's flags and examples.",
    )
    parser.add_argument("--version", action="version", version=f"bdkit {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, (_, text) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == command:
            module = _module(name)
            subparser.epilog = (module.__doc__ or "").partition("\n\n")[2].strip()
            module.add_arguments(subparser)
            if hasattr(module, "add_dependent_arguments"):
                module.add_dependent_arguments(subparser, arguments)
            shown = [action for action in subparser._actions if action.help != argparse.SUPPRESS]
            parser.flags = [flag for action in shown for flag in action.option_strings if flag.startswith("--")]
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; see `guarded` for what it returns."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((argument for argument in arguments if not argument.startswith("-")), None)

    def work() -> int:
        parser = build_parser(command, arguments)
        args, unknown = parser.parse_known_args(arguments)
        if unknown:
            near = parser.flags_like(unknown[0])
            hint = f"did you mean {' or '.join(near)}? See" if near else "see"
            raise InputError(f"unrecognized arguments: {' '.join(unknown)}; {hint} 'bdkit {args.command} --help'")
        return int(_module(args.command).run(args))

    return guarded(work)


def guarded(work: Callable[[], int]) -> int:
    """What `work` returns, 2 after a user error or on a full disk (one line on stderr), 130 after Ctrl-C."""
    quiet_libraries()
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        # a folder's name in another encoding must not end a command that has done its work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return work()
    except KeyboardInterrupt:
        _close_bars()
        print("bdkit: stopped; run the same command again to resume", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        line = one_line(error)
        if line is None:
            raise
        _close_bars()
        print(f"bdkit: error: {line}", file=sys.stderr)
        return EXIT_INPUT


def _module(command: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(COMMANDS[command][0])


def quiet_libraries() -> None:
    """Keeps the libraries' messages and bars off the terminal, unless the environment asks for them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", "__array__ implementation")  # numpy's remark on how diffusers uses tensors


def _close_bars() -> None:
    """Closes the progress bars that an error left open, so that its line stands alone."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"bdkit: warning: {message}", file=sys.stderr)


def one_line(error: Exception) -> str | None:
    """One line for a user error; None for a bug."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    if isinstance(error, UnicodeEncodeError) and not is_unicode(str(error.object)):
        return f"'{printable(str(error.object)[:LONGEST_SHOWN])}' is not UTF-8; rename it"
    # pathlib's own error where the system would say ELOOP
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        return f"{error}; choose another place"
    code = error.errno if isinstance(error, OSError) else None
    name = f" while writing {error.filename}" if isinstance(error, OSError) and error.filename else ""
    # safetensors and torch report a full disk as errors of their own, with the system's text inside
    if code in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
        return f"the disk is full{name}; free some space and run the same command again"
    if isinstance(error, OSError) and error.filename and code in PATH_ERRORS:
        shown = str(error.filename)
        shown = shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}..."
        return f"{shown}: {PATH_ERRORS[code]}"
    return None


if __name__ == "__main__":
    sys.exit(main())
