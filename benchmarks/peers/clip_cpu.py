"""CLIP_benchmark's command line on a machine without a GPU, where its linear probe stops at ``device == 'cuda'``.

    python clip_cpu.py eval ...

The assertion is taken out of the source of ``clip_benchmark.metrics.linear_probe`` and ``.cuda()`` becomes
``.to(device)``, in memory; the installed package stays as it is. A line that is not found is an error, so that another
version of the package is not changed by half.
"""

import sys
from pathlib import Path

import clip_benchmark
from clip_benchmark import cli
from clip_benchmark.metrics import linear_probe

CHANGES = {
    "    assert device == 'cuda' # need to use cuda for this else too slow\n": "",
    ".cuda()": ".to(device)",
}


def main() -> None:
    file = Path(clip_benchmark.__file__).parent / "metrics" / "linear_probe.py"
    source = file.read_text()
    for old, new in CHANGES.items():
        if old not in source:
            raise SystemExit(f"{file} has no {old.strip()!r}: this is another version than 1.6.2")
        source = source.replace(old, new)
    exec(compile(source, str(file), "exec"), vars(linear_probe))
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
