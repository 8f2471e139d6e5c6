"""Images a second: CLIPFeaturizer against the bare model, plain loops and its rivals.

    python benchmarks/featurize.py --json featurize.json
    python benchmarks/featurize.py --json featurize.json --model tiny --images 512
    python benchmarks/featurize.py --json featurize.json --memory

Embeds JPEG files of 640 x 480 that it makes itself, by ViT-B-32 with random weights or
by the embedded model. All ways take turns in one process, and a figure is the median
over rounds. Ways by the same weights have to agree. sentence-transformers and embetter
take part where they are installed. The runs are stored in the file of ``--json``;
``--report`` only prints its tables.
"""

import argparse
import tempfile
from pathlib import Path

import embedding_ways as ways
import numpy as np
import torch
from featurize_memory import measure_memory, report_memory
from photos import digest_of, photo_files
from report import Results, describe, markdown_table
from speed_measures import alternate

LIMIT, README = "bare model, ready tensors (a)", "open_clip's README (b)"
OURS, PIXELS = "CLIPFeaturizer, files", "CLIPFeaturizer, array of pixels"
#: By the same weights as ours, so that their embeddings have to agree.
BY_OPEN_CLIP = {
    LIMIT: ways.bare_model,
    README: ways.readme_loop,
    "the same, in batches (b2)": ways.batched_loop,
    "DataLoader, 2 processes (b3)": ways.data_loader,
    OURS: ways.ours,
    "CLIPFeaturizer, files, num_workers=0": ways.ours_without_threads,
    "CLIPFeaturizer, files, empty cache": ways.ours_cold_cache,
    "CLIPFeaturizer, files, full cache": ways.ours_warm_cache,
    PIXELS: ways.ours_ready,
    "CLIPFeaturizer, array of pixels, tokens": ways.ours_tokens,
}
RIVALS = {
    "sentence-transformers (c)": ways.sentence_transformers,
    "embetter (c)": ways.embetter,
}
#: Largest difference of a coordinate of two unit rows, in single and half precision.
CLOSE, CLOSE_IN_HALF = 1e-3, 2e-2


def main():
    arguments = _parse()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    results = Results(arguments.json)
    if arguments.memory:
        measure_memory(arguments, results)
    elif not arguments.report:
        with tempfile.TemporaryDirectory() as folder:
            measure(arguments, results, arguments.folder or folder)
    report(results)


def measure(arguments, results, folder):
    """Time all ways and store the run in place of an earlier one by the same model."""
    paths = photo_files(folder, arguments.images)
    settings = {"model_name": arguments.model, "pretrained": None}
    if arguments.model != "tiny":
        settings["pretrained"] = random_weights(folder, arguments.model)
    task = ways.Task(paths, {**settings, "batch_size": arguments.batch_size})
    actions, skipped = prepare(task)
    # The first run of each is not timed: it waits for imports, files and threads.
    _, rows = alternate(actions, 1)
    apart = compare(rows, task.clip.dtype)
    n_threads = sorted({1, ways.n_cores()})
    decoding = {
        f"decoding, {number} threads": ways.decoding(task, number)
        for number in n_threads
    }
    alternate(decoding, 1)
    seconds, _ = alternate({**actions, **decoding}, arguments.rounds)
    results.remove(lambda run: run.get("model") == arguments.model)
    results.add(
        {
            "kind": "throughput",
            "model": arguments.model,
            "images": len(paths),
            "bytes": float(np.median([Path(path).stat().st_size for path in paths])),
            "photos": digest_of(paths),
            "batch_size": arguments.batch_size,
            "decoding_threads": n_threads,
            "seconds": seconds,
            "apart": apart,
            "skipped": skipped,
        }
    )


def random_weights(folder, model):
    """Return a safetensors file of random weights, always the same ones."""
    import open_clip
    from safetensors.torch import save_file

    path = Path(folder) / f"{model}_random.safetensors"
    if not path.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            weights = open_clip.create_model(model, pretrained=None).state_dict()
        save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return str(path)


def prepare(task):
    """Return what is to be timed, and which rivals are missing for what reason."""
    actions = {name: way(task) for name, way in BY_OPEN_CLIP.items()}
    skipped = {}
    for name, way in RIVALS.items():
        try:
            actions[name] = way(task)
        except ImportError as error:
            skipped[name] = str(error)
            print(f"left out: {name}: {error}", flush=True)
    return actions, skipped


def compare(rows, dtype):
    """Return how far embeddings are from those of the bare model; stop if too far."""
    apart = {
        name: float(np.abs(np.asarray(rows[name]) - rows[LIMIT]).max())
        for name in BY_OPEN_CLIP
    }
    allowed = CLOSE if dtype == torch.float32 else CLOSE_IN_HALF
    far = {name: value for name, value in apart.items() if not value < allowed}
    if far:
        raise SystemExit(f"these embeddings are not those of the bare model: {far}")
    return apart


def report(results):
    """Print the tables of all runs that the file has."""
    print("\n" + describe(results))
    for run in results.runs:
        if run["kind"] == "throughput":
            report_throughput(run)
    report_memory([run for run in results.runs if run["kind"] == "memory"])


def report_throughput(run):
    rates = {
        name: run["images"] / np.array(seconds)
        for name, seconds in run["seconds"].items()
    }
    medians = {name: float(np.median(rate)) for name, rate in rates.items()}
    rows = [
        [
            name,
            f"{medians[name]:.1f}",
            f"{rate.min():.1f} to {rate.max():.1f}",
            f"{medians[name] / medians[LIMIT]:.2f}",
            f"{medians[name] / medians[README]:.2f}",
        ]
        for name, rate in rates.items()
    ]
    print(
        f"\n{run['model']}: {run['images']} files of {run['bytes'] / 1e3:.0f} kB "
        f"(median), batches of {run['batch_size']}, "
        f"{len(run['seconds'][LIMIT])} rounds, photographs {run['photos']}\n"
    )
    print(markdown_table(["way", "images/s", "range", "/ (a)", "/ (b)"], rows))
    print(f"\nEmbeddings apart by {max(run['apart'].values()):.1e} at most.")
    for name, reason in run["skipped"].items():
        print(f"Left out: {name} ({reason}).")
    report_bound(run, medians)


def report_bound(run, medians):
    """Print the rate that the work itself allows: model and decoding share the cores.

    On a GPU the two do not share, and the slower one is the bound. The model's rate is
    the better one of a batch on all cores and of a batch on each core.
    """
    on_gpu = torch.cuda.is_available()
    decode = medians[f"decoding, {run['decoding_threads'][-1]} threads"]
    model = max(medians[LIMIT], medians[PIXELS])
    bound = min(model, decode) if on_gpu else 1 / (1 / model + 1 / decode)
    print(
        f"\nThe model alone {model:.0f} images/s, decoding alone on all cores "
        f"{decode:.0f}: both together {bound:.0f} at most, of which CLIPFeaturizer "
        f"has {medians[OURS] / bound:.2f} (num_workers=0: "
        f"{medians[f'{OURS}, num_workers=0'] / bound:.2f})."
    )


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="file of the runs")
    parser.add_argument("--model", default="ViT-B-32", help="of open_clip, or tiny")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of torch, in place of all cores")
    parser.add_argument(
        "--folder", type=Path, help="keep photographs and weights here for other runs"
    )
    parser.add_argument(
        "--memory", action="store_true", help="measure memory in place of time"
    )
    parser.add_argument("--memory-images", type=int, nargs="+", default=[5_000, 50_000])
    parser.add_argument("--report", action="store_true", help="make no runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
