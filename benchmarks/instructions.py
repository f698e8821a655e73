"""How much of `instructions` is in its words, without any reinforcement learning.

    python benchmarks/instructions.py

Ridge regression from what is observed of the training sentences to the six tiles; shares of the
sentences of every split whose largest output is the tile that is meant. No split is used to choose
the penalty: it is shown for each.
"""

from __future__ import annotations

import time
from typing import get_args

import torch

from precocial.envs.grid.instructions import SPLITS, TILES, Words, sentences, table


def main() -> None:
    every = [sentence for split in SPLITS for sentence in sentences(split)]
    sizes = [len(sentences(split)) for split in SPLITS]
    tile = torch.tensor([list(TILES).index(sentence.cell) for sentence in every])
    target = torch.nn.functional.one_hot(tile).float() - 1 / len(TILES)
    print(f"{'words':10}{'penalty':>8}" + "".join(f"{split:>9}" for split in SPLITS))
    for words in get_args(Words):
        start = time.process_time()
        x = table(words)
        each = 1e3 * (time.process_time() - start) / len(every)
        train, answer = x[: sizes[0]], target[: sizes[0]]
        for penalty in (1.0, 10.0, 100.0, 1000.0):
            gram = train @ train.T + penalty * torch.eye(sizes[0])
            right = (x @ (train.T @ torch.linalg.solve(gram, answer))).argmax(1) == tile
            shares = [part.float().mean().item() for part in right.split(sizes)]
            print(f"{words:10}{penalty:8.0f}" + "".join(f"{share:9.2f}" for share in shares))
        print(f"{words:10}{each:8.1f} ms of CPU time a sentence, loading included")


if __name__ == "__main__":
    main()
