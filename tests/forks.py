"""Processes that share their imports: one process imports, and forks another for each piece of code."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SERVER = """
import json, os, sys, traceback
for name in sys.argv[1:]:
    __import__(name)
ended = {}
for line in sys.stdin:
    order = json.loads(line)
    if isinstance(order, int):
        pid = abs(order)
        if pid not in ended and (found := os.waitpid(pid, os.WNOHANG if order > 0 else 0))[0]:
            ended[pid] = found[1]
        answer = ended.get(pid)
    elif not (answer := os.fork()):
        code, sys.argv[1:], output = order
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(1, 2)
        status = 0
        try:
            exec(code, {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        os._exit(status)
    print(json.dumps(answer), flush=True)
"""


class Forks:
    """Runs code in processes that find these modules imported. The environment is that of the first import."""

    def __init__(self, *modules: str, **environment: str):
        here = Path(__file__).parent
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}:{here.parent}", **environment}
        command = [sys.executable, "-c", SERVER, *modules]
        self._server = subprocess.Popen(
            command, env=environment, cwd=here.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._folder = tempfile.TemporaryDirectory()
        self._started = 0
        atexit.register(self.close)

    def _ask(self, order):
        self._server.stdin.write(f"{json.dumps(order)}\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, code: str, *arguments: str) -> tuple[int, Path]:
        """(id of a new process, the file of its output)."""
        self._started += 1
        output = Path(self._folder.name) / f"{self._started}.txt"
        return self._ask((code, arguments, str(output))), output

    def ended(self, pid: int) -> bool:
        return self._ask(pid) is not None

    def wait(self, pid: int) -> int:
        """Its status; 0 if it ended well."""
        return self._ask(-pid)

    def run(self, code: str, *arguments: str) -> str:
        """The output of the code, which must end well."""
        pid, output = self.start(code, *arguments)
        status = self.wait(pid)
        text = output.read_text()
        assert status == 0, text[-2000:]
        return text

    def close(self):
        self._server.communicate()
        self._folder.cleanup()


forks = functools.cache(Forks)
"""The same server for the same modules and environment, as long as the tests run."""
WITH_TORCH = "test_search", "test_tiled"
"""For `forks`: with torch, but without triton and torch._dynamo; shared by several files."""
