"""Measures how many tokens a second a model generates, with and without its cache.

    taskset -c 0 python benchmarks/generate.py [--recipe configs/baseline.yaml] [--rounds 7] [--tokens 100]

The model has the recipe's architecture and random weights; it is saved as an artifact and loaded again.
Cached: what ``plgolf generate`` does for each token, sampling included. Uncached: the same, but each token
reads all earlier ones again; fewer tokens are made, because long ones take seconds. Both continue from a
prompt and alternate in one process on one thread. Prints medians of tokens by seconds of the wall clock, and
by seconds in which this process had the processor: on a shared machine the first is too low.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
import yaml
from rounds import finish, parser, spread

import plgolf
from plgolf import GPT, GPTConfig, LanguageModel
from plgolf.artifact import save_artifact
from plgolf.config import config_from_dict
from plgolf.generation.decoding import generate_ids
from plgolf.generation.sampling import Sampling, draw, probabilities


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


def chooser(seed: int) -> Callable[[torch.Tensor], int]:
    """Returns a function that samples a token from logits with the defaults of ``plgolf generate``."""
    generator = torch.Generator().manual_seed(seed)
    return lambda logits: draw(probabilities(logits, Sampling()), generator)


def uncached_ids(gpt: GPT, prompt: list[int], choose: Callable[[torch.Tensor], int]) -> Iterator[int]:
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


def main() -> None:
    arguments = parser(__doc__, rounds=7)
    arguments.add_argument("--recipe", type=Path, default=Path("configs/baseline.yaml"))
    arguments.add_argument("--tokens", type=int, default=100, help="tokens made in a turn, with the cache")
    arguments.add_argument(
        "--prompts", type=int, nargs="+", default=[1, 1024, 3900], help="tokens of the prompt"
    )
    settings = arguments.parse_args()
    torch.set_num_threads(settings.threads or 1)
    model, artifact_bytes = load(settings.recipe)
    gpt, seq_len = model._fast_gpt, model.seq_len
    results = {}
    for length in settings.prompts:
        prompt = torch.randint(gpt.config.vocab_size, (length,)).tolist()
        few = max(min(settings.tokens // 10, 2000 // length), 1)
        found: dict[str, list[tuple[float, float]]] = {"cached": [], "uncached": []}
        for seed in range(settings.rounds):
            cached = generate_ids(gpt, prompt, chooser(seed), seq_len=seq_len, max_tokens=settings.tokens + 1)
            found["cached"].append(speed(cached, settings.tokens))
            found["uncached"].append(speed(uncached_ids(gpt, prompt, chooser(seed)), few))
        results[length] = {
            kind: {
                "tokens_per_second": spread([wall for wall, _ in speeds]),
                "tokens_per_processor_second": spread([processor for _, processor in speeds]),
            }
            for kind, speeds in found.items()
        }
    num_params = sum(p.numel() for p in gpt.parameters())
    finish(settings, {"num_params": num_params, "artifact_bytes": artifact_bytes, "prompts": results})


if __name__ == "__main__":
    main()
