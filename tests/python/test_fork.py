"""A child of fork has none of its parent's threads: it computes with one, and does not hang."""

import multiprocessing

import numpy as np

import flashattn

q, k, v = np.random.default_rng(0).standard_normal((3, 1, 300, 8, 32)).astype(np.float32)


def of_default():
    return flashattn.attention(q, k, v, causal=True)


def of_two():
    try:
        return flashattn.attention(q, k, v, causal=True, num_threads=2)
    except ValueError as error:
        return str(error)


def forked(function):
    """What function() returns in a forked child; a child that hangs is killed."""
    context = multiprocessing.get_context("fork")
    ours, its = context.Pipe(duplex=False)
    child = context.Process(target=lambda: its.send(function()))
    child.start()
    try:
        assert ours.poll(timeout=120), "the child hangs"
        return ours.recv()
    finally:
        child.kill()
        child.join()


def test_a_forked_child_computes_the_same_bits():
    expected = of_two()
    for mine, its in zip(expected, forked(of_default), strict=True):
        np.testing.assert_array_equal(mine, its)


def test_a_forked_child_refuses_more_threads():
    of_two()
    message = forked(of_two)
    assert isinstance(message, str)
    assert message.startswith("num_threads: is 2;") and "fork" in message


def test_a_pool_of_forked_workers():
    expected = of_two()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        for result in pool.map_async(call, range(6)).get(timeout=120):
            np.testing.assert_array_equal(result, expected[0])


def call(_):
    return of_default()[0]
