"""The command line: the commands of `headwater.commands` assembled, and one line for whatever goes wrong."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import threading
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headwater.commands import (
    encoders,
    heads,
    manifest,
    offline,
    predict,
    report,
    retrieval,
    serve,
    store,
    text,
    training,
)
from headwater.commands.help import Command, write_families, write_help
from headwater.commands.output import DEBUG, fail

FOREIGN = "A file was damaged, or changed by hand: headwater --debug … shows where it was read."

COMMANDS = {
    "First steps": {
        "demo": store.demo,
        "docs": offline.docs,
        "doctor": store.doctor,
        "encoders": encoders.encoders,
        "wheelhouse": offline.wheelhouse,
    },
    "Data": {"manifest": manifest.manifest, "tiles": store.tiles, "text": text.text},
    "Store": {
        "embed": store.embed,
        "samples": manifest.samples,
        "info": store.info,
        "verify": store.verify,
        "gc": store.gc,
        "import": store.import_features,
        "export": store.export,
    },
    "Heads": {
        "fit-head": heads.fit_head,
        "sweep": heads.sweep,
        "zero-shot": heads.zero_shot,
        "evaluate": heads.evaluate,
        "predict": predict.predict,
        "bundle": predict.bundle,
        "compare": heads.compare,
        "table": heads.table,
        "cohort": heads.cohort,
        "explain": heads.explain,
        "plot": heads.plot,
        "report": report.report,
    },
    "Training": {"fine-tune": training.fine_tune, "contrast": training.contrast},
    "Retrieval": {
        "similar": retrieval.similar,
        "index": retrieval.index,
        "serve": serve.serve,
        "retrieval-report": retrieval.retrieval_report,
        "audit": retrieval.audit,
    },
}
"""Every command by its name, by family, in the order of ``headwater --help``."""


class _Group(TyperGroup):
    """The commands, with Ctrl-C answered here: what click and typer make of it differs between versions.

    An interrupt may come out as another error, of a lock that it cut short for one, and is answered all the same.
    """

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write what headwater is, with examples."""
        write_help(self.help, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands of each family under its name."""
        write_families(self, ctx, formatter, COMMANDS)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, by family."""
        return [name for family in COMMANDS.values() for name in family]

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an interrupt ends it with one line."""
        interrupted = False

        def note(number: int, frame: Any) -> None:
            nonlocal interrupted
            interrupted = True
            signal.default_int_handler(number, frame)

        main = threading.current_thread() is threading.main_thread()
        ours = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, note)
        try:
            return super().invoke(ctx)
        except BaseException as error:
            if interrupted or isinstance(error, KeyboardInterrupt):
                fail("stopped. What was finished is kept: run the same command again to go on.", 130)
            raise
        finally:
            if ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)


app = typer.Typer(
    name="headwater",
    help="A feature store with lightweight heads: encoders run once, heads fit in seconds.",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _family in COMMANDS.values():
    for _name, _command in _family.items():
        app.command(_name, cls=Command)(_command)  # type: ignore[type-var]


def main() -> None:
    """Run the command line; an error is one line and status 1, with ``--debug`` after its traceback."""
    from headwater.errors import HeadwaterError

    try:
        app(prog_name="headwater")
    except HeadwaterError as error:
        fail(str(error), 1)
    except OSError as error:  # what the system refuses, wherever it does
        fail(_refusal(error), 1)
    except (MemoryError, RecursionError) as error:
        fail(_exhausted(error), 1)
    except BaseException as error:
        if "torch" in sys.modules and _exhausts_gpu(error):
            fail("the GPU ran out of memory. Lower --batch-size, or pass --device cpu; what was finished is kept.", 1)
        if type(error).__name__ != "PanicException":  # of libraries that are written in Rust, such as polars
            raise
        fail(f"a library gave up ({str(error).splitlines()[0][:200]}). {FOREIGN}", 1)
    finally:
        if "torch" not in sys.modules:  # some of whose libraries count what is left, and complain
            gc.freeze()  # else the interpreter looks through all that was imported for cycles: a quarter second


def _exhausts_gpu(error: BaseException) -> bool:
    from headwater._backend import is_out_of_memory

    return is_out_of_memory(error)


def _exhausted(error: MemoryError | RecursionError) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory. Close other programs, or use fewer samples, a smaller batch, fewer workers."
    return f"something is nested too deeply. {FOREIGN}"


def _refusal(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full. Free some space and run the same command again; what was finished is kept."
    return f"{where}{error.strerror or error}"


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"headwater {version('headwater')}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the code an error came from, for a report.")
    ] = False,
) -> None:
    """A feature store with lightweight heads: encoders run once, heads fit in seconds.

    Example:
      headwater embed scans.csv scans.hw --encoder timm:resnet34.a1_in1k
      headwater fit-head scans.hw --features resnet34.a1_in1k/image --label density --groups patient
    """
    if debug:
        os.environ[DEBUG] = "1"
