"""Triton for a Hopper GPU that isn't there: kernels are compiled as they are launched, and what they use is read."""

import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

TARGET = GPUTarget("cuda", 90, 32)


class Hopper:
    """As much of a driver as a launch that only compiles asks for."""

    def get_current_target(self):
        return TARGET

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def only_compile():
    """From now on launches only compile. Returns what was made, (kernel, its name), as it grows."""
    driver.set_active(Hopper())
    run, made = JITFunction.run, []

    def compiled(self, *given, **options):
        made.append((run(self, *given, **options | {"warmup": True}), self.__name__))

    JITFunction.run = compiled
    return made


def stack(kernel) -> int:
    """Bytes a thread that spilled registers and arrays take."""
    command = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run([command, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return max(map(int, re.findall(r"STACK:(\d+)", usage)))
