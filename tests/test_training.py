"""What can go wrong while training, done to it.

The run continues to the same numbers, or says what is the matter and keeps what it had."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
import warnings

import pytest
import torch
from PIL import Image

from asyncpatch.data import batch_indices, digits, to_uint8
from asyncpatch.folders import image_folder
from asyncpatch.laws import asyncpatch
from asyncpatch.monitoring import start_trackers
from asyncpatch.run_folders import read_log
from asyncpatch.training import train
from asyncpatch.weights import fingerprint, load, load_tensors, save_tensors

SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from asyncpatch.data import digits
from asyncpatch.laws import asyncpatch
from asyncpatch.training import train
train(sys.argv[1], dict(base=4, classes=10, dropout=.1), digits().train, asyncpatch, steps=120,
      batch=16, warmup=10, checkpoint_every=7, progress=False)
"""
SHORT = dict(
    net=dict(base=4, classes=10),
    images=digits().train,
    law=asyncpatch,
    steps=30,
    batch=8,
    warmup=5,
    checkpoint_every=5,
    progress=False,
)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "Fingerprints of the two runs of this page, undisturbed."
    folder = tmp_path_factory.mktemp('whole')
    assert start(folder / 'script').wait() == 0
    return dict(
        script=fingerprint(load(folder / 'script').net),
        short=fingerprint(train(folder / 'short', **SHORT).net),
    )


def start(folder, *before):
    return subprocess.Popen(
        [*before, sys.executable, '-W', 'ignore', '-c', SCRIPT, str(folder)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stderr=subprocess.PIPE,
        text=True,
    )


def steps_done(folder):
    try:
        return load_tensors(folder / 'checkpoint.safetensors')[1]['step']
    except FileNotFoundError:
        return 0


def stopped_at(folder, step, **changes):
    "A run that lost its process at a step."

    class Stop(Exception):
        pass

    class Interrupted:
        left = step

        def __len__(self):
            return len(SHORT['images'])

        def __getitem__(self, index):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return SHORT['images'][index]

    with pytest.raises(KeyboardInterrupt):
        train(folder, **{**SHORT, 'images': Interrupted(), **changes})


def test_sigkill_at_random_instants(tmp_path, whole):
    chance, kills = random.Random(0), 0
    for _ in range(3):
        process, before = start(tmp_path / 'killed'), steps_done(tmp_path / 'killed')
        while process.poll() is None and steps_done(tmp_path / 'killed') <= before:
            time.sleep(0.01)
        time.sleep(chance.random() / 3)
        if process.poll() is None:
            kills += 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills, 'the run was over before it could be killed'
    assert start(tmp_path / 'killed').wait() == 0
    assert fingerprint(load(tmp_path / 'killed').net) == whole['script']
    steps = [line['step'] for line in read_log(tmp_path / 'killed')]
    assert steps == sorted(set(steps)) and steps[-1] == 120, 'the log repeats itself'


@pytest.mark.parametrize('damage', ['cut', 'foreign', 'gone'])
def test_a_damaged_checkpoint_costs_one_interval(tmp_path, damage, whole):
    stopped_at(tmp_path / 'run', 18)
    last = tmp_path / 'run/checkpoint.safetensors'
    assert steps_done(tmp_path / 'run') == 15
    if damage == 'cut':
        last.write_bytes(last.read_bytes()[:1000])
    if damage == 'foreign':
        last.write_bytes(b'not a checkpoint at all')
    if damage == 'gone':
        last.unlink()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        resumed = train(tmp_path / 'run', **SHORT)
    assert fingerprint(resumed.net) == whole['short']
    words = [str(w.message) for w in said if 'checkpoint' in str(w.message)]
    if damage != 'gone':
        assert (
            'is damaged' in words[0]
            and 'goes on from the checkpoint before, step 10' in words[0]
            and (tmp_path / 'run/checkpoint-damaged.safetensors').is_file()
        )


def test_no_good_checkpoint_is_an_error_and_nothing_is_touched(tmp_path):
    stopped_at(tmp_path / 'run', 18)
    for name in ('checkpoint', 'checkpoint-before'):
        (tmp_path / f'run/{name}.safetensors').write_bytes(b'x' * 1000)
    with pytest.raises(
        ValueError, match='checkpoint.safetensors is damaged.*move it away to begin anew'
    ):
        train(tmp_path / 'run', **SHORT)
    assert {p.stat().st_size for p in (tmp_path / 'run').glob('*.safetensors')} == {1000}


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    stopped_at(tmp_path / 'run', 12)
    kept = (tmp_path / 'run/checkpoint.safetensors').read_bytes()
    with pytest.raises(ValueError, match='holds another run: batch was 8 and is now 4'):
        train(tmp_path / 'run', **{**SHORT, 'batch': 4})
    save_tensors(
        tmp_path / 'run/checkpoint.safetensors', {'x': torch.zeros(1)}, {'what': 'something else'}
    )
    with pytest.raises(ValueError, match='not a checkpoint of `fit`'):
        train(tmp_path / 'run', **SHORT)
    (tmp_path / 'run/checkpoint.safetensors').write_bytes(kept)
    train(tmp_path / 'run', **SHORT)


def test_moments_of_other_tensors_are_refused(tmp_path):
    "They would be left out, and the run would go on with new ones."
    stopped_at(tmp_path / 'run', 12)
    tensors, about = load_tensors(tmp_path / 'run/checkpoint.safetensors')
    moments = [name for name in tensors if name.startswith('adam.') and '.film.both.' in name]
    assert moments
    for name in moments:
        tensors[name.replace('.both.', '.scale.')] = tensors.pop(name)
    save_tensors(tmp_path / 'run/checkpoint.safetensors', tensors, about)
    with pytest.raises(RuntimeError, match='got moments of .*film.scale'):
        train(tmp_path / 'run', **SHORT)


def rewritten(path, change):
    tensors, about = load_tensors(path)
    change(about)
    save_tensors(path, tensors, about)


@pytest.mark.parametrize('finished', [False, True])
def test_a_run_of_before_a_setting_existed_goes_on(tmp_path, finished, whole):
    """Its configuration lacks what the network, the loop and the objective have learnt since.

    What it did then is the default now. A value that it does have still counts."""
    if finished:
        train(tmp_path / 'run', **SHORT)
    else:
        stopped_at(tmp_path / 'run', 12)

    def older(about):
        config = about if finished else about['config']
        for key in ('head_width', 'rope', 'size', 'reduction'):
            del config['net'][key]
        for key in ('accumulate', 'floor', 'corrected'):
            del config[key]

    for path in (tmp_path / 'run').glob('*.safetensors'):
        if finished == (path.name == 'weights.safetensors'):
            rewritten(path, older)
    assert fingerprint(train(tmp_path / 'run', **SHORT).net) == whole['short']
    with pytest.raises(ValueError, match="holds another run: floor was 0.0 and is now 0.5"):
        train(tmp_path / 'run', **{**SHORT, 'floor': 0.5})
    with pytest.raises(ValueError, match='holds another run: net was .*nearest'):
        train(tmp_path / 'run', **{**SHORT, 'net': dict(SHORT['net'], reduction='nearest')})


def test_a_full_disk(tmp_path, whole):
    "On a real file system of a third of a megabyte where the kernel lets us have one."
    (tmp_path / 'small').mkdir()
    mount = f'mount -t tmpfs -o size=350k none {tmp_path}/small && exec "$@"'
    if (
        not shutil.which('unshare')
        or subprocess.run(
            ['unshare', '-rm', 'sh', '-c', mount, '-', 'true'], capture_output=True
        ).returncode
    ):
        pytest.skip('no private mounts here')
    only_mount = mount.removesuffix(' && exec "$@"')
    keep = f'cp -r {tmp_path}/small/run {tmp_path}/kept'
    inside = f'{only_mount} && "$@"; status=$?; {keep}; exit $status'
    done = start(tmp_path / 'small/run', 'unshare', '-rm', 'sh', '-c', inside, '-')
    said = done.communicate()[1]
    assert done.returncode and 'cannot write to' in said and 'No space left on device' in said, said
    assert not list((tmp_path / 'kept').glob('.*')), 'a half-written file was left behind'
    if 'is safe' in said:
        step = int(said.split('; step ')[1].split(' is safe')[0])
        assert steps_done(tmp_path / 'kept') == step
    assert start(tmp_path / 'kept').wait() == 0
    assert fingerprint(load(tmp_path / 'kept').net) == whole['script']


def test_a_file_that_may_not_grow(tmp_path):
    "The same where the system refuses files of that size: only the log could be written."
    limited = 'ulimit -f 40; exec "$@"'
    done = start(tmp_path / 'run', 'bash', '-c', limited, '-')
    said = done.communicate()[1]
    assert done.returncode and 'at step 7: File too large; there is no checkpoint yet' in said, said
    assert not list((tmp_path / 'run').glob('.*')) and not list(
        (tmp_path / 'run').glob('*.safetensors')
    )


@pytest.mark.parametrize('workers', [0, 2])
def test_an_unreadable_image_loses_nothing(tmp_path, workers):
    """A folder of pictures, one of them cut off: the run stops with its name and its state.

    When the picture is whole again, it ends as if nothing had been."""
    (tmp_path / 'pictures').mkdir()
    for k, page in enumerate(digits().train.x[:40]):
        Image.fromarray(to_uint8(page[0]).numpy()).save(tmp_path / f'pictures/{k:02d}.png')
    settings = {
        **SHORT,
        'net': dict(base=4),
        'images': image_folder(tmp_path / 'pictures', 8, channels=1),
        'steps': 12,
        'checkpoint_every': 1000,
        'workers': workers,
    }
    undisturbed = fingerprint(train(tmp_path / 'undisturbed', **settings).net)
    torn = int(batch_indices(3, 40, 8, 0)[0])
    good = (tmp_path / f'pictures/{torn:02d}.png').read_bytes()
    (tmp_path / f'pictures/{torn:02d}.png').write_bytes(good[:60])
    with pytest.raises(ValueError, match=f'{torn:02d}.png cannot be read as an image') as caught:
        train(tmp_path / 'run', **settings)
    assert (
        steps_done(tmp_path / 'run') == 3
        and 'training stopped at step 3, which is saved' in caught.value.__notes__[0]
    )
    (tmp_path / f'pictures/{torn:02d}.png').write_bytes(good)
    assert fingerprint(train(tmp_path / 'run', **settings).net) == undisturbed


def test_a_source_that_skips_is_taken_at_its_word(tmp_path):
    "Pictures that are skipped are counted in the header, also when other processes met them."
    (tmp_path / 'pictures').mkdir()
    for k, page in enumerate(digits().train.x[:16]):
        Image.fromarray(to_uint8(page[0]).numpy()).save(tmp_path / f'pictures/{k:02d}.png')
    (tmp_path / 'pictures/05.png').write_bytes(b'no picture')
    images = image_folder(tmp_path / 'pictures', 8, channels=1, on_error='skip')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        trained = train(
            tmp_path / 'run',
            **{**SHORT, 'net': dict(base=4), 'images': images, 'steps': 6, 'workers': 1},
        )
    assert trained.about['unreadable'] == 1 and trained.about['images'] == 16


def test_workers_show_the_same_images_and_pass_on_what_went_wrong(tmp_path):
    here, ahead = (
        train(tmp_path / f'{workers}', workers=workers, **{**SHORT, 'steps': 6})
        for workers in (0, 2)
    )
    assert fingerprint(here.net) == fingerprint(ahead.net)


def test_trackers_are_asked_for_clearly(tmp_path, monkeypatch):
    "Accelerate leaves out, without a word, what is not installed."
    monkeypatch.setattr('asyncpatch.monitoring.get_available_trackers', list)
    for asked, remedy in (
        ('tensorboard', r"pip install 'asyncpatch\[trackers\]'"),
        ('all', r"pip install 'asyncpatch\[trackers\]'"),
        ('wandb', 'pip install wandb'),
    ):
        with pytest.raises(ImportError, match=remedy):
            train(tmp_path / 'run', log_with=asked, **SHORT)
    with pytest.raises(ValueError, match="log_with must be of .*tensorboard.*, got 'blackboard'"):
        train(tmp_path / 'run', log_with='blackboard', **SHORT)
    assert not (tmp_path / 'run').exists()


DISTRIBUTED = """
import sys
import torch
torch.set_num_threads(1)
from asyncpatch.data import digits
from asyncpatch.laws import asyncpatch
from asyncpatch.training import train
train(sys.argv[1], dict(base=8, classes=10), digits().train, asyncpatch, steps=int(sys.argv[2]),
      batch=16, warmup=2, checkpoint_every=2, accumulate=int(sys.argv[3]), log_every=2,
      progress=False)
"""


@pytest.mark.parametrize('told', [None, 'http://elsewhere', 'sqlite:////before/boards/mlflow.db'])
def test_mlflow_writes_beside_the_run_unless_it_was_told_where_to(told, tmp_path, monkeypatch):
    "A run before this one in the same process has not told it."
    said, asked = dict(uri=told), {}
    library = types.SimpleNamespace(
        is_tracking_uri_set=lambda: told is not None,
        get_tracking_uri=lambda: said['uri'] or 'sqlite:///mlflow.db',
        set_tracking_uri=lambda uri: said.update(uri=uri),
    )
    monkeypatch.setitem(sys.modules, 'mlflow', library)
    here = types.SimpleNamespace(
        log_with=['mlflow'],
        init_trackers=lambda name, config, init_kwargs: asked.update(init_kwargs['mlflow']),
    )
    start_trackers(here, tmp_path / 'run', {})
    ours = told != 'http://elsewhere'
    boards = tmp_path.resolve() / 'run/boards'
    assert said['uri'] == (f'sqlite:///{boards}/mlflow.db' if ours else told)
    assert asked.get('logging_dir') == (boards.as_uri() if ours else None)
    assert boards.is_dir() == ours and asked['run_name'] == 'run'


def launch(folder, processes, accumulate=1, steps=6):
    port = str(random.randrange(20_000, 60_000))
    environment = {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': port,
        'WORLD_SIZE': str(processes),
        'LOCAL_WORLD_SIZE': str(processes),
        'ACCELERATE_USE_CPU': '1',
    }
    if processes == 1:
        environment = {
            k: v
            for k, v in environment.items()
            if k not in ('MASTER_ADDR', 'MASTER_PORT', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE')
        }
    ranks = [
        {'RANK': str(r), 'LOCAL_RANK': str(r)} if processes > 1 else {} for r in range(processes)
    ]
    running = [
        subprocess.Popen(
            [
                sys.executable,
                '-W',
                'ignore',
                '-c',
                DISTRIBUTED,
                str(folder),
                str(steps),
                str(accumulate),
            ],
            env={**environment, **rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ranks
    ]
    for process in running:
        said = process.communicate(timeout=900)[1]
        assert process.returncode == 0, said
    return load(folder).net


def test_two_processes_learn_what_one_learns(tmp_path):
    one, two, parts = (
        launch(tmp_path / 'one', 1),
        launch(tmp_path / 'two', 2),
        launch(tmp_path / 'parts', 2, accumulate=2),
    )
    other = train(
        tmp_path / 'other',
        dict(base=8, classes=10),
        digits().train,
        asyncpatch,
        steps=6,
        batch=8,
        warmup=2,
        progress=False,
    ).net
    apart = lambda a, b: max(
        (p - q).abs().max().item() for p, q in zip(a.parameters(), b.parameters())
    )
    assert apart(one, two) < 1e-4 and apart(one, parts) < 1e-4 < 1e-3 < apart(one, other)
    assert [line['step'] for line in read_log(tmp_path / 'two')] == [2, 4, 6]
