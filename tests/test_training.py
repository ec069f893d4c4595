"Training that is killed at any instant continues to the same numbers."
import os
import random
import signal
import subprocess
import sys
import time

import torch

from asyncpatch.weights import load, load_tensors

SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from asyncpatch.data import digits
from asyncpatch.timesteps import asyncpatch
from asyncpatch.training import train
train(sys.argv[1], dict(base=8, classes=10), digits().train, asyncpatch, steps=300, batch=16, warmup=10, checkpoint_every=7, progress=False)
"""


def start(folder):
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', SCRIPT, str(folder)], env={**os.environ, 'OMP_NUM_THREADS': '1'})


def steps_done(folder):
    return load_tensors(folder/'checkpoint.safetensors')[1]['step'] if (folder/'checkpoint.safetensors').is_file() else 0


def test_sigkill_at_random_instants(tmp_path):
    assert start(tmp_path/'whole').wait() == 0
    chance, kills = random.Random(0), 0
    for _ in range(3):
        process, before = start(tmp_path/'killed'), steps_done(tmp_path/'killed')
        while process.poll() is None and steps_done(tmp_path/'killed') <= before: time.sleep(.01)
        time.sleep(chance.random()/3)
        if process.poll() is None: kills += 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills, 'the run was over before it could be killed'
    assert start(tmp_path/'killed').wait() == 0
    whole, killed = (load(tmp_path/name).net.state_dict() for name in ('whole', 'killed'))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    steps = [line.split('"step": ')[1].split(',')[0] for line in (tmp_path/'killed/metrics.jsonl').read_text().splitlines()]
    assert steps == sorted(set(steps), key=int), 'the log repeats itself'


def test_a_damaged_checkpoint_is_named_and_kept(tmp_path):
    process = start(tmp_path/'run')
    while not (tmp_path/'run/checkpoint.safetensors').is_file(): time.sleep(.01)
    process.kill()
    process.wait()
    checkpoint = tmp_path/'run/checkpoint.safetensors'
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    again = subprocess.run([sys.executable, '-W', 'ignore', '-c', SCRIPT, str(tmp_path/'run')], capture_output=True, text=True)
    assert again.returncode != 0 and 'checkpoint.safetensors is damaged' in again.stderr
    assert checkpoint.stat().st_size == 1000
