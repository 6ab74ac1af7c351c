"""The plan on a real SLURM cluster of one node, this machine: ``apt-get install slurm-wlm``, then as root
``python -m pytest -m cluster``."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from clones import cloned, snakemake

from cogvsr_utils import load_items
from cogvsr_utils.dataset.benchmarks.lookalikes import write_lookalikes

INSTALLED = Path("/etc/slurm")  # where a job's own commands look, which get no variables of SLURM's
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="SLURM is not installed (slurm-wlm)"),
    pytest.mark.skipif((INSTALLED / "slurm.conf").exists(), reason="this machine is a SLURM node already"),
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can start a SLURM node"),
]
# No accounts, no keys and no control groups; its GPU is a name that jobs are counted by.
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
MinJobAge=3600
GresTypes=gpu
NodeName={host} CPUs={cpus} RealMemory=8000 Gres=gpu:1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A SLURM node is up meanwhile."""
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, folder=folder, cpus=os.cpu_count()))
    INSTALLED.mkdir(parents=True, exist_ok=True)
    links = [INSTALLED / each.name for each in folder.glob("*.conf")]
    for link in links:
        link.symlink_to(folder / link.name)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    daemons = [subprocess.Popen([shutil.which(name), "-D"], **quiet) for name in ("slurmctld", "slurmd")]
    try:
        for _ in range(60):
            found = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
            if found.stdout.strip() == "idle":
                break
            time.sleep(1)
        else:
            logs = "\n".join(log.read_text()[-2000:] for log in folder.glob("*.log"))
            pytest.fail(f"the node does not come up: {found.stdout}{found.stderr}\n{logs}")
        yield
    finally:
        for link in links:
            link.unlink()
        for daemon in daemons:
            daemon.terminate()
            daemon.wait(30)


def test_shards_of_a_benchmark_run_as_jobs_of_one_gpu_each(node, small_set, tmp_path):
    clone = cloned(tmp_path / "clone", small_set)
    write_lookalikes(load_items(small_set), clone / "copies")
    for name in ("spatialeval", "spatial457", "3dsrbench", "cogvsr"):
        shutil.rmtree(clone / "copies" / name)
    done = snakemake(
        clone, "--profile", "profiles/slurm", "--default-resources", "mem_mb=1500", "cpus_per_task=1",
        "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5", "--slurm-no-account",
        "--config", "source=mine/items.jsonl", "data_root=copies", "shards=2", "--", "benchmarks",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    shards = sorted((clone / "results").rglob("benchmarks/vsr/?-of-2.parquet"))
    replies = pd.concat([pd.read_parquet(path) for path in shards])
    items = load_items(f"vsr:{clone / 'copies' / 'vsr'}")
    assert len(shards) == 2 and set(replies["uid"]) == {item.uid for item in items}
    columns = ["squeue", "--noheader", "--states", "all", "--Format", "State:12,tres-per-job:20"]
    jobs = [
        " ".join(line.split()) for line in subprocess.run(columns, capture_output=True, text=True).stdout.splitlines()
    ]
    assert len(jobs) == done.stderr.count("has been submitted with SLURM jobid") > 2, "each a job of its own"
    assert set(jobs) == {"COMPLETED gres:gpu:1", "COMPLETED N/A"}, "those that run a model with a GPU"
