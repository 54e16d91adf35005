"""Index arrays, cache names and samples of Weft against megatron-core's GPTDataset, and cyclic order against torch.

Usage: gpt_oracle.py DATA_TOOL [CASES]. Exit 0 when everything is equal, 77 when megatron-core is not installed.
"""
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import OrderedDict

try:
    import numpy
    import torch
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
except (ImportError, OSError) as error:  # OSError: a torch that lacks its libraries
    print("skipped:", error)
    sys.exit(77)


class Tokenizer:
    def __init__(self, identifiers, vocab, eod, pad):
        self.unique_identifiers, self.vocab_size, self.eod, self._pad = OrderedDict(identifiers), vocab, eod, pad

    @property
    def pad(self):
        if self._pad is None:
            raise NotImplementedError
        return self._pad


def make_sets(folder, rng):
    prefixes = []
    for i in range(6):
        prefix = os.path.join(folder, f"set {i}\u00e9" if i == 3 else f"set{i}")
        vocab = 70000 if i % 2 else 300
        builder = IndexedDatasetBuilder(prefix + ".bin", dtype=numpy.int32 if vocab >= 65500 else numpy.uint16)
        for _ in range(rng.choice([7, 40, 300])):
            n = rng.randint(1, rng.choice([3, 30, 400]))
            builder.add_document([rng.randrange(vocab) for _ in range(n)], [n])
        builder.finalize(prefix + ".idx")
        prefixes.append(prefix)
    return prefixes


def make_case(i, folder, prefixes, rng):
    case = {"blend": None, "blend_per_split": None, "split": None}

    def blend(force_weights=None):
        n = rng.choice([1, 1, 2, 3, 5, 12])
        chosen = [rng.choice(prefixes) for _ in range(n)]
        weighted = rng.random() < 0.5 if force_weights is None else force_weights
        return [chosen, [rng.choice([0.1, 1.0, 2.5, 30.0, rng.random() + 0.01]) for _ in chosen] if weighted else None]

    sizes = [rng.choice([None, rng.randint(1, 40), rng.randint(40, 1000)]) for _ in range(3)]
    if rng.random() < 0.7:
        case["blend"] = blend()
        case["split"] = rng.choice(["99,1,0", "90,5,5", "1", "70,30", "0,1,1", "969, 30, 1", "0.5,0.25,0.25", "98,1.5,0.5"])
        if case["blend"][1] is not None:
            sizes = [s or rng.randint(1, 500) for s in sizes]
    else:
        case["blend_per_split"] = [blend() if rng.random() < 0.8 else None for _ in range(3)]
        for s in range(3):
            b = case["blend_per_split"][s]
            if b is not None and b[1] is not None:
                sizes[s] = sizes[s] or rng.randint(1, 500)
    pad = rng.choice([None, None, 5])
    case.update(
        sizes=sizes, seq_len=rng.choice([2, 7, 32, 128, 555]), seed=rng.choice([0, 1, 42, 1234, 4294967295]),
        drop_last=rng.random() < 0.6, cache=os.path.join(folder, f"cache{i}"), show=12,
        tokenizer=OrderedDict([("class", "HuggingFaceTokenizer"), ("tokenizer_path", ["a/b", "c\u20ac\U0001f600\"\\"]),
                               ("extra", {"x": [], "y": {}, "f": rng.choice([1.0, 0.1, 1e-5, 1e16, 123456.789]), "b": True, "n": None})]),
        eod=rng.choice([0, 17]), pad=-1 if pad is None else pad, eod_mask_loss=rng.random() < 0.3)
    return case


def run_megatron(case):
    """A list for each split: None, or (size, samples), or the exception."""
    pad = None if case["pad"] == -1 else case["pad"]
    config = GPTDatasetConfig(
        random_seed=case["seed"], sequence_length=case["seq_len"],
        blend=case["blend"] and tuple(case["blend"]),
        blend_per_split=case["blend_per_split"] and [b and tuple(b) for b in case["blend_per_split"]],
        split=case["split"], path_to_cache=case["cache"] + ".megatron", num_dataset_builder_threads=1,
        tokenizer=Tokenizer(case["tokenizer"], 70000, case["eod"], pad),
        reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=case["eod_mask_loss"], create_attention_mask=False,
        drop_last_partial_validation_sequence=case["drop_last"])
    if not hasattr(GPTDataset, "epochs_unchecked"):
        GPTDataset.epochs_unchecked = GPTDataset._get_num_epochs

        def epochs(self, tokens):  # upstream loops without end when a split holds no token
            assert tokens > 0
            return self.epochs_unchecked(tokens)
        GPTDataset._get_num_epochs = epochs
    out = []
    for dataset in BlendedMegatronDatasetBuilder(GPTDataset, case["sizes"], lambda: True, config).build():
        if dataset is None:
            out.append(None)
            continue
        # Upstream keeps the first sample's loss mask and writes that sample's pads into it: every later sample inherits them.
        for part in getattr(dataset, "datasets", [dataset]):
            part.masks_and_position_ids_are_cacheable = False
        samples = []
        for i in range(min(len(dataset), case["show"])):
            s = dataset[len(dataset) - 1 - i]
            samples.append([s["tokens"].tolist() + [int(s["labels"][-1])], s["loss_mask"].tolist()])
        out.append((len(dataset), samples))
    return out


def cyclic(total, micro, ranks, sharded, places):
    """Megatron's random sampler over several epochs, batch after batch, ranks side by side."""
    batch = micro * ranks
    out, consumed = [], 0
    while len(out) < places:
        active = total - total % batch
        epoch, offset = consumed // active, consumed % active
        g = torch.Generator()
        g.manual_seed(epoch)
        rows = []
        for rank in range(ranks):
            if sharded:
                bucket = (total // batch) * micro
                rows.append([rank * bucket + x for x in torch.randperm(bucket, generator=g.manual_seed(epoch)).tolist()][offset // ranks:])
            else:
                full = torch.randperm((total // micro) * micro, generator=g.manual_seed(epoch)).tolist()
                rows.append(full[offset:][rank::ranks])
        for step in range((active - offset) // batch):
            for rank in range(ranks):
                out += rows[rank][step * micro:(step + 1) * micro]
            consumed += batch
    return out[:places]


def main():
    tool, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200
    rng = random.Random(20)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)  # blends ask for a rank
    with tempfile.TemporaryDirectory() as folder:
        prefixes = make_sets(folder, rng)
        cases = [make_case(i, folder, prefixes, rng) for i in range(count)]
        orders = [(100, 4, 2, True, 300), (101, 3, 4, True, 250), (100, 4, 2, False, 300), (57, 5, 3, False, 160), (1000, 1, 1, True, 2500)]
        with open(os.path.join(folder, "cases.json"), "w") as f:
            json.dump({"cases": cases, "cyclic": orders}, f)
        subprocess.run([tool, "gpt", os.path.join(folder, "cases.json"), os.path.join(folder, "out.json")], check=True)
        with open(os.path.join(folder, "out.json")) as f:
            ours = json.load(f)
        compared, files, refused, samples = 0, 0, 0, 0
        for i, (case, got) in enumerate(zip(cases, ours["cases"])):
            try:
                want = run_megatron(case)
            except Exception as error:  # both must refuse
                assert any(g and "error" in g for g in got), (i, repr(error)[:300], [g and ("error" in g) for g in got])
                refused += 1
                continue
            for s in range(3):
                if want[s] is None:
                    assert got[s] is None, (i, s)
                    continue
                assert got[s] is not None and "error" not in got[s], (i, s, str(got[s])[:300])
                assert got[s]["size"] == want[s][0], (i, s, got[s]["size"], want[s][0])
                assert [list(x) for x in got[s]["samples"]] == want[s][1], (i, s, "samples")
                samples += len(want[s][1])
            theirs = sorted(os.listdir(case["cache"] + ".megatron"))
            assert theirs == sorted(os.listdir(case["cache"])), (i, theirs, sorted(os.listdir(case["cache"])))
            for name in theirs:
                a, b = (open(os.path.join(d, name), "rb").read() for d in (case["cache"], case["cache"] + ".megatron"))
                assert a == b, (i, name)
                files += 1
            compared += 1
        for order, got in zip(orders, ours["cyclic"]):
            assert got == cyclic(*order), order
        print(f"configurations equal: {compared}, refused by both: {refused}; cache files equal: {files}; samples equal: {samples}; cyclic orders equal: {len(orders)}")
        assert compared >= min(100, count // 2)


main()
