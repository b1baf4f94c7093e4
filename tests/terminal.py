"""A terminal for pages of documentation, in which no command waits for libraries that an earlier one has loaded.

Run as a script this is the process that has loaded them: for each ``headwater`` that is typed it forks, and the child
is the command, with its words, its folder and its streams. The Python of a page is one session, as at a prompt.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

LOADED = ["scipy.stats", "sklearn.linear_model", "skimage.feature", "torch", "torchvision", "transformers"]
CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    words = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(line, [len(words).to_bytes(4, "big")], [0, 1, 2])
    line.sendall(words)
    status = int(line.recv(16) or 70)
sys.exit(status)
"""
SESSION = """
import json, sys
names = {"__name__": "__main__"}
for line in sys.stdin:
    exec(compile(json.loads(line), "<page>", "exec"), names)
    print("\\0", flush=True)
"""


class Commands:
    """The process that has loaded the libraries, and a ``headwater`` that asks it; leaving it ends that process."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="terminal-"))  # of a short name: the address of a socket has to be
        address = str(self.folder / "socket")
        command = self.folder / "headwater"
        command.write_text(CLIENT.format(python=sys.executable, address=address))
        command.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(address)
            door.listen()
            line = [sys.executable, "-P", __file__, str(door.fileno())]
            self.server = subprocess.Popen(line, pass_fds=[door.fileno()], env=environment(self.folder))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.server.kill()
        self.server.communicate()
        shutil.rmtree(self.folder)


def environment(home, *paths):
    """Return the few variables that commands are given: another page runs beside them, so that each has one thread."""
    path = ":".join([*map(str, paths), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return {"PATH": path, "HOME": str(home), "OMP_NUM_THREADS": "1", **kept}


class Terminal:
    """Bash and Python typed in one folder; leaving it ends the session of Python."""

    def __init__(self, folder, commands):
        self.options = {"cwd": folder, "env": environment(folder, commands.folder), "text": True}
        self.said = folder / ".said"
        self.session = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.session is not None:
            self.session.kill()
            self.session.communicate()

    def type(self, language, code):
        """Run a block of ``bash`` or ``python`` to its end; if it fails, an AssertionError shows what it said."""
        if language == "bash":
            done = subprocess.run(["bash", "-euc", code], capture_output=True, check=False, **self.options)
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
            return
        with self.said.open("a") as said:
            if self.session is None:
                line = [sys.executable, "-W", "error", "-c", SESSION]
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said}
                self.session = subprocess.Popen(line, **pipes, **self.options)
            self.session.stdin.write(json.dumps(code) + "\n")
            self.session.stdin.flush()
            shown = []
            while (line := self.session.stdout.readline()) != "\0\n":
                shown.append(line)
                assert line, f"{code}\n{''.join(shown)}\n{self.said.read_text()}"


def serve(door):
    """Load the libraries, and from then on be the command of everyone who connects."""
    import headwater
    from headwater.cli import main

    for verb in dir(headwater):
        getattr(headwater, verb)
    for name in LOADED:
        with contextlib.suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        line, _ = door.accept()
        if os.fork() == 0:
            break
        line.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(line, 4, 3)
    with line.makefile("rb") as told:
        words, folder, variables = json.loads(told.read(int.from_bytes(size, "big")))
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        line.sendall(str(status if status >= 0 else 128 - status).encode())
        os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    line.close()
    door.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["headwater", *words]
    status = 0
    try:
        main()
    except SystemExit as end:
        status = end.code or 0
    except BaseException:  # noqa: BLE001 -- it is shown, as an interpreter would
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # rather than take down, one by one, what others have loaded


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
