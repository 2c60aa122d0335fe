"""Runs a function on several gloo ranks of this machine."""

import os
import tempfile
import traceback
from multiprocessing import get_context

import torch
import torch.distributed as dist

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "gcl_toolkit.training.train"])


def on_ranks(count, function, *arguments):
    """function(*arguments) on `count` ranks, in new processes; their results, or the first failure."""
    results = CONTEXT.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            CONTEXT.Process(target=_run, args=(rank, count, folder, results, function, arguments), daemon=True)
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        found = {}
        for _ in processes:
            rank, failure, result = results.get(timeout=120)
            assert not failure, f"rank {rank}: {failure}"
            found[rank] = result
        for process in processes:
            process.join()
    return [found[rank] for rank in range(count)]


def _run(rank, count, folder, results, function, arguments):
    torch.set_num_threads(1)
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    try:
        if count > 1:
            dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
        results.put((rank, "", function(*arguments)))
        if count > 1:
            dist.barrier()
            dist.destroy_process_group()
    except BaseException:
        results.put((rank, traceback.format_exc(), None))
