"""How many tokens a second a model writes, with and without its cache.

    taskset -c 0 python benchmarks/generate.py [--recipe configs/baseline.yaml] [--rounds 7] [--tokens 100]

The recipe's architecture with random weights, saved as an artifact and loaded again: speed does not depend on
what was learned. Cached: what ``plgolf generate`` does for each token, choosing it included. Uncached: the
same, but all tokens so far are read anew for each; of those fewer are made, as long ones take seconds. Both
go on from a prompt and alternate in one process on one thread. Medians of tokens by seconds of the wall
clock, and by those that this process had the processor: on a machine that others share, the first is too low.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import torch
import yaml

import plgolf
from plgolf import GPT, GPTConfig, LanguageModel
from plgolf.artifact import save_artifact
from plgolf.config import config_from_dict
from plgolf.generation.decoding import generate_ids
from plgolf.generation.language_model import _choose
from plgolf.generation.sampling import Sampling


def load(recipe: Path) -> tuple[LanguageModel, int]:
    """Saves a random model of a recipe as an artifact, loads it, and returns it and the artifact's bytes."""
    settings = yaml.safe_load(recipe.read_text())
    torch.manual_seed(0)
    gpt = GPT(config_from_dict(GPTConfig, settings["model"]["gpt"]))
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.int8.ptz"
        save_artifact(gpt, path, seq_len=settings["data"]["seq_len"])
        return plgolf.load_artifact(path), path.stat().st_size


def uncached_ids(gpt: GPT, prompt: list[int], choose) -> Iterator[int]:
    ids = list(prompt)
    while True:
        with torch.inference_mode():
            ids.append(choose(gpt(torch.tensor([ids]))[0, -1]))
        yield ids[-1]


def speed(ids: Iterator[int], number: int) -> tuple[float, float]:
    """Returns tokens by seconds of the wall clock and of the processor; the first token is not counted."""
    next(ids)
    wall, processor = time.perf_counter(), time.process_time()
    made = sum(1 for _ in islice(ids, number))
    return made / (time.perf_counter() - wall), made / (time.process_time() - processor)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=Path("configs/baseline.yaml"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument(
        "--prompts", type=int, nargs="+", default=[1, 1024, 3900], help="tokens of the prompt"
    )
    settings = parser.parse_args()
    torch.set_num_threads(1)
    model, artifact_bytes = load(settings.recipe)
    gpt = model._fast_gpt
    results: dict[str, object] = {
        "recipe": str(settings.recipe),
        "num_params": sum(p.numel() for p in gpt.parameters()),
        "artifact_bytes": artifact_bytes,
        "torch": torch.__version__,
        "rounds": settings.rounds,
    }
    for length in settings.prompts:
        prompt = torch.randint(gpt.config.vocab_size, (length,)).tolist()
        few = max(min(settings.tokens // 10, 2000 // length), 1)
        found: dict[str, list[tuple[float, float]]] = {"cached": [], "uncached": []}
        for seed in range(settings.rounds):
            choose = partial(_choose, sampling=Sampling(), generator=torch.Generator().manual_seed(seed))
            cached = generate_ids(gpt, prompt, choose, seq_len=4096, max_tokens=settings.tokens + 1)
            found["cached"].append(speed(cached, settings.tokens))
            found["uncached"].append(speed(uncached_ids(gpt, prompt, choose), few))
        results[f"prompt of {length}"] = {
            kind: {
                "tokens_per_second": spread([wall for wall, _ in speeds]),
                "tokens_per_processor_second": spread([processor for _, processor in speeds]),
            }
            for kind, speeds in found.items()
        }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
