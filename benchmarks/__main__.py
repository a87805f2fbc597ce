"""Run the benchmarks and write a dated report: ``python -m benchmarks [--full]``.

One after another: `benchmarks.step` with few rounds, `overhead` with short trials and `growth` to 1,000 trials, which
is what a change of the code is checked with; with ``--full``, most of an hour, all of each, and `evaluation`,
`memory`, `precision` and `tracking` too. The report, Markdown and JSON, is written into ``benchmarks/reports/``:
machine, versions, and what each benchmark printed, with its limits; one that ended without figures is told as such. It
exits with 1 where a limit does not hold; the report is written all the same.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).resolve().parent / "reports"
PACKAGES = ("d3tune", "torch", "ray", "optuna", "mlflow", "numpy")


@dataclass(frozen=True)
class Section:
    """What one benchmark said."""

    name: str
    command: str
    code: int
    minutes: float
    text: str
    figures: Any


def run(name: str, *options: str) -> Section:
    """Run one benchmark in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        began = time.monotonic()
        done = subprocess.run([*command, "--json", str(file)], stdout=subprocess.PIPE, text=True)  # noqa: S603
        minutes = (time.monotonic() - began) / 60
        figures = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    print(f"{done.stdout}\n{name}: exit code {done.returncode}, {minutes:.1f} min\n", flush=True)
    shown = " ".join(["python -m", f"benchmarks.{name}", *options])
    return Section(name, shown, done.returncode, minutes, done.stdout, figures)


def environment() -> dict[str, str]:
    """Machine and versions."""
    models = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory[0]) / 2**20:.0f} GiB" if memory else "?",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "commit": _commit(),
        "load at the start": f"{os.getloadavg()[0]:.2f}",
    }


def markdown(date: str, about: dict[str, str], sections: Sequence[Section]) -> str:
    """The report."""
    broken = [section.name for section in sections if section.figures is None]
    missed = [section.name for section in sections if section.code != 0 and section.name not in broken]
    verdict = f"Limits that do not hold: see {', '.join(missed)}." if missed else "All limits hold."
    if broken:
        verdict = f"Ended without figures: {', '.join(broken)}. {verdict if missed else ''}".rstrip()
    lines = [f"# Benchmarks, {date}", "", verdict, "", *(f"- {name}: {value}" for name, value in about.items())]
    for section in sections:
        lines += ["", f"## {section.name}", "", f"`{section.command}`, {section.minutes:.1f} min", ""]
        lines += ["```text", section.text.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def free_name(date: str) -> Path:
    """Of the next report of a day; none is written over."""
    names = [f"{date}.md", *(f"{date}-{number}.md" for number in range(2, 1000))]
    return next(path for name in names if not (path := REPORTS / name).exists())


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPORTS.parent)  # noqa: S603
    return done.stdout.strip() or "unknown"


def main() -> int:
    """Measure and write; 1 where a limit does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--full", action="store_true", help="all benchmarks, and all of each; most of an hour")
    given = parser.parse_args()
    about, date = environment(), datetime.now(UTC).strftime("%Y-%m-%d")
    if given.full:
        sections = [run("step"), run("evaluation"), run("memory"), run("precision")]
        sections += [run("overhead", "--full"), run("growth", "--full"), run("tracking")]
    else:
        sections = [run("step", "--quick"), run("overhead"), run("growth")]
    REPORTS.mkdir(exist_ok=True)
    path = free_name(date)
    path.write_text(markdown(date, about, sections), encoding="utf-8")
    figures = {section.name: {"code": section.code, "figures": section.figures} for section in sections}
    path.with_suffix(".json").write_text(json.dumps({"about": about, **figures}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path} and {path.with_suffix('.json').name}")
    return int(any(section.code != 0 for section in sections))


if __name__ == "__main__":
    sys.exit(main())
