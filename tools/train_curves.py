"""Train one model of a learning curve to each of several budgets, going on where it was stopped.

    python tools/train_curves.py garments14 asyncpatch 0 250 500 1000 2000

The averaged network after each number of steps lies in `runs/<scale>/curves/<model>/after/`; a copy
goes to `--copy FOLDER`, if given.
"""

import argparse
import shutil
import sys
from pathlib import Path

from asyncpatch.learning_curves import after, train_to


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('scale')
    parser.add_argument('name')
    parser.add_argument('seed', type=int)
    parser.add_argument('steps', type=int, nargs='+')
    parser.add_argument('--copy', type=Path)
    args = parser.parse_args(argv)
    model = (args.scale, args.name, args.seed)
    for steps in sorted(args.steps):
        train_to(*model, steps, progress=False, checkpoint_every=100)
        print('-'.join(map(str, model)), steps, 'steps', flush=True)
        if args.copy:
            args.copy.mkdir(parents=True, exist_ok=True)
            words = '-'.join(map(str, (*model, f'{steps:06d}')))
            shutil.copy(after(*model, steps), args.copy / f'{words}.safetensors')


if __name__ == '__main__':
    sys.exit(main())
