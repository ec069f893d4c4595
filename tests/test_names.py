"A public name has one home and one meaning, and so have the arguments that stand everywhere."

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / 'tools'))
check_names = pytest.importorskip('check_names')


def test_a_name_has_one_home_or_a_reason():
    found = check_names.two_homes(check_names.package())
    assert found.keys() == check_names.TWO_HOMES.keys(), found
    assert all(check_names.TWO_HOMES.values())


def test_arguments_mean_what_their_name_says():
    modules = check_names.package()
    assert not list(check_names.other_meanings(modules))
    seen = [name for source in modules.values() for _, name, _, _ in check_names.arguments(source)]
    assert all(seen.count(name) >= 10 for name in check_names.ARGUMENTS)  # it does look


def test_a_second_home_is_found():
    modules = dict(
        one="__all__ = ['shared', 'one', 'own']", two="__all__ = ['shared']", own='__all__ = []'
    )
    homes = dict(shared=['one', 'two'], own=['one', 'the module own'])
    assert check_names.two_homes(modules) == homes


@pytest.mark.parametrize(
    'argument, counted',
    [
        ('steps: int,  # of the optimiser', 0),
        ('steps: int,  # from noise to data', 1),
        ('steps: Tensor,  # of the optimiser', 1),
        ('known: Tensor,  # True where observed', 0),
        ('known: Tensor,  # what is missing', 1),
        ('schedule: str,  # maps t to (alpha, sigma)', 1),
        ('calls: int | None = None,  # of the network', 0),
        ('anything: str,  # at all', 0),
    ],
)
def test_another_meaning_is_found(argument, counted):
    function = f'def f(\n    {argument}\n): ...'
    method = f'class A:\n    def f(\n        self,\n        {argument}\n    ): ...'
    field = f'class A:\n    {argument.replace(",  #", "  #")}'
    for source in (function, method, field):
        assert len(list(check_names.other_meanings(dict(module=source)))) == counted, source
    private = function.replace('def f', 'def _f')
    assert not list(check_names.other_meanings(dict(module=private)))
