"""List the trainings that the page on regret may ask: those of which this machine has the networks.

    python tools/grow_regret.py

On a machine that has none of them, train those that `nbs/results/regret_runs.json` lists first
(`tools/train_curves.py`, some three minutes of a core for 2,000 steps): the record needs all.
Commit the list, then make the record: `asyncpatch reproduce --full --only regret-matrix`, and its
page: `python tools/run_notebooks.py nbs/results/396_regret.ipynb --shipped`.
"""

import json
import re
from pathlib import Path

from asyncpatch.files import write_atomically
from asyncpatch.learning_curves import curve_folder
from asyncpatch.records import runs_folder

LIST = Path(__file__).resolve().parent.parent / 'nbs/results/regret_runs.json'


def finished(scale):
    "Budgets that were reached, by run."
    runs = {}
    for folder in sorted((runs_folder(scale) / 'curves').glob('*')):
        name, seed = re.fullmatch(r'(.*)-(\d+)-[0-9a-f]{12}', folder.name).groups()
        steps = sorted(int(path.stem) for path in (folder / 'after').glob('*.safetensors'))
        if steps and folder == curve_folder(scale, name, int(seed)):
            runs[f'{name}-{seed}'] = steps
    return runs


if __name__ == '__main__':
    runs = finished('garments14')
    lines = ',\n'.join(f' {json.dumps(run)}: {json.dumps(steps)}' for run, steps in runs.items())
    write_atomically(LIST, '{\n' + lines + '\n}\n')
    print(f'{len(runs)} runs in {LIST}')
