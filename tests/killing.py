"""Kills that fall between two system calls: what a kill at a random instant hits too seldom."""

import os


class Killed(BaseException):
    "What stands for a kill."


def kills_between_writes(work, monkeypatch):
    """Do a piece of work again and again, and let each replacement of a file in turn be the last.

    Yields after every kill how many files had been replaced before it; ends when the work does."""
    replace, limit = os.replace, 0
    while True:
        done = []

        def counting(source, destination, done=done, limit=limit):
            if len(done) == limit:
                raise Killed
            done.append(destination)
            replace(source, destination)

        with monkeypatch.context() as patch:
            patch.setattr(os, 'replace', counting)
            try:
                return work()
            except Killed:
                pass
        yield limit
        limit += 1
