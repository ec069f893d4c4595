"""Train and measure what `tools/queue.json` lists, one after the other, on one core.

    python tools/run_queue.py             go on with the queue (`make queue`)
    python tools/run_queue.py --status    what is finished, what is next, and how far it is
    python tools/run_queue.py --next 2    only the next two

The most telling come first, so the queue can be cut off anywhere. A job is `{"train": [scale, name,
seed]}`, a model of the zoo, or `{"command": […]}`, anything that goes on where it was stopped.
Ctrl-C, `kill` and a lost machine cost what was computed since the last checkpoint; the same command
goes on. What is finished is skipped: a model that ships or lies in `runs/`, a command that ended
well.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from asyncpatch.recipes import recipe_of
from asyncpatch.records import config_hash, runs_folder
from asyncpatch.run_folders import read_log
from asyncpatch.zoo import finished_weights, model_folder, shipped_model

ROOT = Path(__file__).resolve().parent.parent
QUEUE = ROOT / 'tools/queue.json'
TRAIN = 'import sys; from asyncpatch.zoo import model; a, b, c = sys.argv[1:]; model(a, b, int(c))'


def words_of(job):
    "A job in one line."
    what = '-'.join(map(str, job['train'])) if 'train' in job else ' '.join(job['command'])
    return f"{what} ({job['for']})"


def mark_of(job):
    "The file that says that a command has ended well."
    return runs_folder('queue') / f"{config_hash(job['command'])}.done"


def is_finished(job):
    "Whether nothing is left to do."
    if 'command' in job:
        return mark_of(job).is_file()
    return shipped_model(*job['train']) is not None or finished_weights(*job['train']) is not None


def progress_of(job):
    "Steps made of those of the recipe, for a model in training."
    if 'train' not in job:
        return ''
    try:
        made = read_log(model_folder(*job['train'])[0])[-1]['step']
    except (OSError, LookupError, ValueError):
        return ''
    return f", {made:,} of {recipe_of(*job['train'][:2])['steps']:,} steps"


def status(jobs):
    "One line a job."
    for job in jobs:
        state = 'finished' if is_finished(job) else 'to do' + progress_of(job)
        print(f'{state:>30}  {words_of(job)}')


def run(job):
    "One job in a process of its own, on one core and niced; whether it ended well."
    call = job.get('command') or [sys.executable, '-c', TRAIN, *map(str, job['train'])]
    one_core = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    process = subprocess.Popen(['nice', '-n', '10', *call], cwd=ROOT, env=one_core)
    try:
        ended = process.wait() == 0
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if ended and 'command' in job:
        mark_of(job).parent.mkdir(parents=True, exist_ok=True)
        mark_of(job).touch()
    return ended


def locked():
    "A lock that goes with this process; None where another runs the queue."
    folder = runs_folder('queue')
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / 'lock', 'w')
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return lock


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--status', action='store_true')
    parser.add_argument('--next', type=int, help='how many jobs to run; all if not given')
    parser.add_argument('--queue', type=Path, default=QUEUE)
    args = parser.parse_args(argv)
    jobs = json.loads(args.queue.read_text(encoding='utf-8'))
    if args.status:
        return status(jobs)
    lock = locked()
    if lock is None:
        return 'another process runs the queue already'
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    left = [job for job in jobs if not is_finished(job)]
    print(f'{len(jobs) - len(left)} of {len(jobs)} jobs are finished', flush=True)
    failed = []
    for i, job in enumerate(left[: args.next], 1):
        began = time.monotonic()
        print(f'[{i}/{len(left)}] {words_of(job)}{progress_of(job)}', flush=True)
        if not run(job):
            failed.append(words_of(job))
        minutes = (time.monotonic() - began) / 60
        print(f'[{i}/{len(left)}] ended after {minutes:.0f} minutes', flush=True)
    return 'failed: ' + '; '.join(failed) if failed else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit('stopped; the same command goes on')
