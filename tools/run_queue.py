"""Train and measure what `tools/queue.json` lists, one after the other, on one core.

    python tools/run_queue.py             go on with the queue (`make queue`)
    python tools/run_queue.py --status    what is finished, what is next, and how far it is
    python tools/run_queue.py --next 2    only the next two
    python tools/run_queue.py --at-once 12 --minutes 8    on a GPU: side by side, then stopped

The most telling come first, so the queue can be cut off anywhere. A job is `{"train": [scale, name,
seed]}`, a model of the zoo, or `{"command": […]}`, anything that goes on where it was stopped.
Ctrl-C, `kill` and a lost machine cost what was computed since the last checkpoint; the same command
goes on. What is finished is skipped: a model that ships or lies in `runs/`, a command that ended
well. A model that builds on another waits for it, and a command for the models
that its job lists as `needs`. Side by side, what jobs say goes to
`runs/queue/logs/`.
"""

import argparse
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from asyncpatch.recipes import recipe_of
from asyncpatch.records import config_hash, runs_folder
from asyncpatch.run_folders import read_log
from asyncpatch.zoo import finished_weights, foundation, model_folder, shipped_model

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


def start(job, log=None):
    "One job in a process of its own, on one core and niced."
    call = job.get('command') or [sys.executable, '-c', TRAIN, *map(str, job['train'])]
    one_core = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    said = dict(stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) if log else {}
    return subprocess.Popen(['nice', '-n', '10', *call], cwd=ROOT, env=one_core, **said)


def note_end(job):
    "Remember that a command has ended well."
    if 'command' in job:
        mark_of(job).parent.mkdir(parents=True, exist_ok=True)
        mark_of(job).touch()


def run(job):
    "One job, waited for; whether it ended well."
    process = start(job)
    try:
        ended = process.wait() == 0
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if ended:
        note_end(job)
    return ended


def waits_for(job, unfinished):
    "Whether a job needs a model that is still to be trained."
    needs = list(job.get('needs', []))
    if 'train' in job and (below := foundation(job['train'][1])):
        needs.append([job['train'][0], below, job['train'][2]])
    return any(other.get('train') in needs for other in unfinished if 'train' in other)


def log_of(job):
    "Where a job that runs beside others says what it does."
    name = '-'.join(map(str, job.get('train') or job['command'][1:]))
    folder = runs_folder('queue') / 'logs'
    folder.mkdir(parents=True, exist_ok=True)
    return open(folder / f"{re.sub('[^A-Za-z0-9._-]+', '-', name)[-80:]}.log", 'w')


def run_side_by_side(left, at_once, minutes):
    "Several jobs at a time until all are done or the time is over; those that failed, in words."
    waiting, running, failed, began = list(left), {}, [], time.monotonic()
    over = lambda: minutes is not None and time.monotonic() - began > 60 * minutes
    try:
        while (waiting or running) and not over():
            unfinished = [*waiting, *(job for job, _ in running.values())]
            ready = [job for job in waiting if not waits_for(job, unfinished)]
            for job in ready[: at_once - len(running)]:
                process = start(job, log_of(job))
                running[process.pid] = job, process
                waiting.remove(job)
            time.sleep(0.5)
            for pid, (job, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[pid]
                seconds = f'{time.monotonic() - began:.0f} s'
                if process.returncode:
                    failed.append(words_of(job))
                else:
                    note_end(job)
                outcome = 'failed' if process.returncode else 'done'
                print(f'{seconds}: {words_of(job)}: {outcome}', flush=True)
            if not running and waiting and all(waits_for(job, waiting) for job in waiting):
                break
    finally:
        for job, process in running.values():
            process.send_signal(signal.SIGINT)
        for job, process in running.values():
            process.wait()
            print(f'stopped: {words_of(job)}{progress_of(job)}', flush=True)
    return failed + [f'{words_of(job)}, not begun' for job in waiting]


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
    parser.add_argument('--at-once', type=int, default=1, help='jobs side by side')
    parser.add_argument('--minutes', type=float, help='when to stop, with --at-once')
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
    if args.at_once > 1:
        failed = run_side_by_side(left[: args.next], args.at_once, args.minutes)
        return 'not finished: ' + '; '.join(failed) if failed else 0
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
