"The queue of trainings and the maker of products: what runs beside what, and where Jupyter is not."

import json
import os
import subprocess
import sys

import pytest

from asyncpatch.records import checkout

ROOT = checkout()
PAGE = ROOT / 'nbs/results/397_regret_real.ipynb'


def run(*words, runs, **environment):
    command = [sys.executable, *map(str, words)]
    here = os.environ | dict(ASYNCPATCH_RUNS=str(runs), PYTHONPATH=str(ROOT)) | environment
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=here)


def queue(tmp_path, *jobs, options=()):
    path = tmp_path / 'queue.json'
    path.write_text(json.dumps([dict(job, **{'for': 'a test'}) for job in jobs]))
    return run('tools/run_queue.py', '--queue', path, *options, runs=tmp_path / 'runs')


def test_jobs_run_side_by_side_and_those_that_fail_are_named(tmp_path):
    jobs = [dict(command=['sleep', '0.1']), dict(command=['false'])]
    found = queue(tmp_path, *jobs, options=['--at-once', '2'])
    assert 'sleep 0.1 (a test): done' in found.stdout
    assert found.returncode and 'not finished: false (a test)' in found.stderr
    again = queue(tmp_path, *jobs, options=['--at-once', '2'])
    assert '1 of 2 jobs are finished' in again.stdout


def test_side_by_side_ends_when_its_time_is_over(tmp_path):
    jobs = [dict(command=['sleep', seconds]) for seconds in ('600', '601', '602')]
    found = queue(tmp_path, *jobs, options=['--at-once', '2', '--minutes', '0.02'])
    assert 'stopped: sleep 600' in found.stdout and 'stopped: sleep 601' in found.stdout
    assert 'sleep 602 (a test), not begun' in found.stderr


def test_a_model_waits_for_what_it_builds_on(tmp_path):
    jobs = [dict(train=['smoke', name, 0]) for name in ('latent-asyncpatch', 'autoencoder')]
    found = queue(tmp_path, *jobs, options=['--at-once', '2', '--minutes', '2'])
    first, second = (line for line in found.stdout.splitlines() if line.endswith('done'))
    assert 'smoke-autoencoder-0' in first and 'smoke-latent-asyncpatch-0' in second


@pytest.mark.parametrize('name, known', [('regret-real', True), ('no-such', False)])
def test_products_are_made_without_jupyter(tmp_path, name, known):
    words = ['tools/make_products.py', PAGE, 'smoke', name, '--out', tmp_path / 'out']
    found = run(*words, runs=tmp_path / 'runs', ASYNCPATCH_COMMIT='0a1b2c3')
    if not known:
        assert found.returncode and 'defines no product no-such' in found.stderr
        return
    assert found.returncode == 0, found.stderr
    assert f'{name} at smoke' in found.stdout
