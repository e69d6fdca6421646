"""Entry point of the command line: picks the verb's module, which alone is imported, and turns errors into exit codes.

A verb is a module with a `VERB` of `m4v.cli.verb`; adding one is a line in `VERBS`.
"""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

from m4v.cli.verb import Action, Verb
from m4v.core.errors import UserError

VERBS: dict[str, tuple[str, str]] = {
    "generate": ("m4v.cli.generate", "a sentence (and a picture, if you like) to a video"),
    "train": ("m4v.cli.train", "train a recipe, or fine-tune on a folder of your videos"),
    "data": ("m4v.cli.data", "check, prepare, cache, shard and synthesize training videos"),
    "toybox": ("m4v.cli.toybox", "render captioned clips of the procedural world"),
    "convert": ("m4v.cli.convert", "checkpoints of Pyramid-Flow and Wan2.1, attention to state space"),
    "describe": ("m4v.cli.describe", "parameters, tokens, operations and memory of a model"),
    "bench": ("m4v.cli.bench", "speed and memory against attention, on this device"),
    "evaluate": ("m4v.cli.evaluate", "score a model; VBench; user studies"),
    "report": ("m4v.cli.report", "a training run as one HTML file"),
    "doctor": ("m4v.cli.doctor", "versions, devices, and what is missing"),
}
"""Verb -> module and one line of help."""

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Words after `m4v`; default: those of the process.

    Returns:
        Exit code: 0 done, 2 input that cannot be used, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with _notes_on_standard_error():
            code = _dispatch(words)
        sys.stdout.flush()
        return code
    except UserError as error:
        rank = os.environ.get("RANK", "")
        print(f"Error{' on rank ' if rank else ''}{rank}: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("\nInterrupted; nothing half-written is left.", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away; closing it again at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())  # noqa: T201
        return 0
    if words[0] == "--version":
        from m4v import __version__

        print(f"m4v {__version__}")  # noqa: T201
        return 0
    name, rest = words[0], words[1:]
    if name not in VERBS:
        raise UserError(f"There is no verb {name!r}; expected one of {', '.join(VERBS)}. See m4v --help.")
    _quiet_libraries()
    verb: Verb = import_module(VERBS[name][0]).VERB
    prog = f"m4v {name}"
    while isinstance(verb, Mapping):
        if not rest or rest[0] in ("-h", "--help"):
            print(_list_actions(prog, verb))  # noqa: T201
            return 0 if rest else EXIT_BAD_INPUT
        if rest[0] not in verb:
            raise UserError(f"There is no {prog} {rest[0]!r}; expected one of {', '.join(verb)}.")
        prog, verb, rest = f"{prog} {rest[0]}", verb[rest[0]], rest[1:]
    try:
        arguments = _parse(prog, verb, rest)
    except SystemExit as stop:  # tyro has printed its help or what it could not read
        return stop.code if isinstance(stop.code, int) else EXIT_BAD_INPUT
    verb.run(arguments)
    return 0


def _parse(prog: str, action: Action, words: list[str]) -> object:
    from m4v.cli.json_output import with_explicit_target

    words = with_explicit_target(words)
    if action.parse is not None:
        return action.parse(prog, words)
    import tyro

    markers = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName)
    return tyro.cli(action.arguments, prog=prog, args=words, config=markers)


def _quiet_libraries() -> None:
    """Keep libraries from talking over our own notes."""
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    # Threads that wait actively fight whatever else runs on a laptop: a busy core then makes us several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    # diffusers imports torchao wherever it is installed, which then complains about kernels that it was built without.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for category in (FutureWarning, DeprecationWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=r"(torch|diffusers|transformers|huggingface_hub)\b")


@contextlib.contextmanager
def _notes_on_standard_error() -> Iterator[None]:
    """Print what the package logs, each note once, however many videos it concerns."""
    logger = logging.getLogger("m4v")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("Note: %(message)s"))
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_known = message in said
        said.add(message)
        return not is_known

    handler.addFilter(is_new)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _overview() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in VERBS.items())
    return (
        "usage: m4v VERB ...\n\n"
        "M4V: text-to-video with a state-space model.\n\n"
        f"verbs:\n{verbs}\n\n"
        'example:\n  m4v generate "a red ball jumps on the grass"\n\n'
        "m4v VERB --help tells more; m4v --version tells the version."
    )


def _list_actions(prog: str, actions: Mapping[str, Verb]) -> str:
    width = max(map(len, actions))
    lines = [f"  {name:<{width}}  {_summary(action)}" for name, action in actions.items()]
    return f"usage: {prog} {{{','.join(actions)}}} ...\n\n" + "\n".join(lines)


def _summary(verb: Verb) -> str:
    if isinstance(verb, Mapping):
        return f"Several: {', '.join(verb)}."
    return (verb.arguments.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
