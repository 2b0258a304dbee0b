# SPDX-License-Identifier: Apache-2.0
"""Rows survive what kills the process that writes them, and two processes do not do the same run."""

import multiprocessing

import numpy as np

from benchmarks.accuracy.store import Store


def test_rows_come_back(tmp_path):
    """The last one of each key; a skipped run is not finished."""
    store = Store(tmp_path)
    assert store.rows() == {}
    store.append({"key": "a", "skipped": "no weights"})
    store.append({"key": "b", "seed": 1}, {"scores": np.arange(3)})
    assert store.finished().keys() == {"b"}
    store.append({"key": "a", "seed": 0}, {"scores": np.arange(2)})
    assert store.finished() == {"a": {"key": "a", "seed": 0}, "b": {"key": "b", "seed": 1}}
    with np.load(store.scores_file("b")) as arrays:
        assert arrays["scores"].tolist() == [0, 1, 2]
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == ["a.npz", "b.npz"]


def test_a_line_that_was_cut_off_is_no_row(tmp_path):
    """Neither is the next one lost with it."""
    store = Store(tmp_path)
    store.append({"key": "a"})
    with store.rows_file.open("a") as file:
        file.write('{"key": "b", "metr')
    assert store.rows().keys() == {"a"}
    store.append({"key": "c"})
    assert store.rows().keys() == {"a", "c"}


def try_lock(folder, key, answer):
    with Store(folder).lock(key) as ours:
        answer.put(ours)


def test_a_run_is_of_one_process(tmp_path):
    """Another process gets another run, and this one when the first is through with it."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()

    def ask(key):
        process = context.Process(target=try_lock, args=(tmp_path, key, answer))
        process.start()
        process.join()
        return answer.get()

    with Store(tmp_path).lock("a") as ours:
        assert ours
        assert not ask("a")
        assert ask("b")
    assert ask("a")
