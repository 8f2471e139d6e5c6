"""What benchmarks write: a JSON file that survives an interruption, Markdown tables.

Nothing runs here; ``accuracy.py`` and ``speed.py`` read it.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

import skfewshot

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch")
ROOT = Path(__file__).resolve().parents[1]


def machine():
    """Return what the times depend on."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "system": platform.platform(),
    }


def _cpu_model():
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def versions():
    """Return the versions of what computes, with the commit of this project."""
    found = {"python": platform.python_version()}
    found |= {package: version(package) for package in PACKAGES}
    found["skfewshot"] = skfewshot.__version__
    found["commit"] = _git("rev-parse", "HEAD")
    found["uncommitted"] = _git("status", "--porcelain", "skfewshot", "benchmarks")
    return found


def _git(*arguments):
    """Return what git says, or None where this is no repository."""
    answer = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True
    )
    return answer.stdout.strip() if answer.returncode == 0 else None


class Results:
    """A JSON file of runs, written whole after each, so that none is lost.

    Attributes
    ----------
    sessions : list of dict
        When, by which command, on which machine and with which versions runs were made.
    runs : list of dict
        What `add` was given, with ``session``, an index into `sessions`.

    Notes
    -----
    The file is replaced at once (``os.replace``): an interruption leaves the old one.
    Two processes must not write to one file: the last to write would win.
    """

    def __init__(self, path):
        self.path = Path(path)
        stored = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.sessions = stored.get("sessions", [])
        self.runs = stored.get("runs", [])
        self._is_open = False

    def add(self, run):
        """Store a run, a dict of plain values."""
        if not self._is_open:
            self.sessions.append(
                {
                    "started": datetime.now(UTC).isoformat(timespec="seconds"),
                    "command": shlex.join(["python", *sys.argv]),
                    "machine": machine(),
                    "versions": versions(),
                }
            )
            self._is_open = True
        self.runs.append({**run, "session": len(self.sessions) - 1})
        self._write()

    def remove(self, is_stale):
        """Forget the runs of which ``is_stale(run)`` says so."""
        kept = [run for run in self.runs if not is_stale(run)]
        if len(kept) < len(self.runs):
            self.runs = kept
            self._write()

    def _write(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder: a file can be replaced only by one of the same disk.
        with tempfile.NamedTemporaryFile(
            "w", dir=self.path.parent, prefix=f".{self.path.name}.", delete=False
        ) as file:
            # A line a run: to read, to compare, and ten times as fast as indented.
            parts = {"sessions": self.sessions, "runs": self.runs}
            lists = [
                f'"{key}": [\n' + ",\n".join(map(json.dumps, part)) + "\n]"
                for key, part in parts.items()
            ]
            file.write("{" + ",\n".join(lists) + "}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, self.path)


def make_and_report(arguments, asked, make_runs, report):
    """Make the runs that the file lacks, unless only a report is asked for.

    Parameters
    ----------
    arguments : argparse.Namespace
        With ``json``, the file of the runs, ``report``, to make none, and ``redo``, the
        methods whose runs are to be made again, or True for all.
    asked : callable
        ``asked(run, arguments)`` says whether a run is of what was asked for.
    make_runs, report : callable
        Called with ``arguments`` and the `Results`, one after the other.
    """
    # At one shot every row is a class of its own; scikit-learn takes that for a hint.
    warnings.filterwarnings("ignore", "The number of unique classes")
    results = Results(arguments.json)
    if not arguments.report:
        redo = arguments.redo
        results.remove(
            lambda run: (
                redo
                and (redo is True or run["method"] in redo)
                and asked(run, arguments)
            )
        )
        make_runs(arguments, results)
    report(arguments, results)


def describe(results):
    """Return one line for each machine and set of versions that made the runs."""
    used = {run["session"] for run in results.runs}
    lines = []
    for index in sorted(used):
        session = results.sessions[index]
        found = session["machine"], session["versions"]
        packages = ", ".join(f"{name} {found[1][name]}" for name in PACKAGES)
        commit = (found[1]["commit"] or "unknown")[:10]
        changed = " with uncommitted changes" if found[1]["uncommitted"] else ""
        lines.append(
            f"{found[0]['cpu']}, {found[0]['cores']} cores, "
            f"{found[0]['torch_threads']} torch threads, {found[0]['device']}; "
            f"Python {found[1]['python']}, {packages}, commit {commit}{changed}"
        )
    return "\n".join(dict.fromkeys(lines))


def markdown_table(header, rows):
    """Return a Markdown table of strings."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
