"""Commands that measure: `bench stream` is schedule.bench.bench_stream."""

import math
import sys
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from raytransfer.data.decoding import IN_TRAINING, Decoding
from raytransfer.errors import UserError


def bench(
    what: Positional[Literal["stream"]],
    *,
    data: str,
    batch: int = 256,
    seconds: float = 5.0,
    repeats: int = 3,
    threads: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    decoding: OmitArgPrefixes[Decoding] = IN_TRAINING,
) -> None:
    """Measure how fast images come: from shards to the device, beside other ways.

    Args:
        what: stream: images a second of the stream, of its decoder alone, of a PyTorch loader.
        data: Folder of shards that `raytransfer prepare` wrote, or its URI.
        batch: Images of a batch.
        seconds: Of each repeat, after three seconds to get going.
        repeats: Times that every way is measured, in turn.
        threads: That decode, in each of the ways. None: one a core.
        device: Where images go; auto: to a GPU where there is one.
        decoding: Where images of the stream are decoded.
    """
    from raytransfer.cli.tables import print_table
    from raytransfer.data.plan import epoch_traffic
    from raytransfer.schedule.bench import bench_stream, stream_plan

    for name, number in (("seconds", seconds), ("repeats", repeats), ("threads", threads)):
        if number is not None and not 0 < number < math.inf:
            raise UserError(f"--{name} is more than 0, not {number}.")
    plan = stream_plan(data, batch)
    print(f"Measuring, for about {repeats * (3 * seconds + 10) + 10:.0f} seconds.", file=sys.stderr)
    sides = bench_stream(
        plan, seconds=seconds, repeats=repeats, threads=threads, device=device, decoding=decoding
    )
    alone = next(side.median for side in sides if side.name == "decoder alone")
    rows = [
        (
            side.name,
            f"{side.median:,.0f}",
            f"{min(side.rates):,.0f}-{max(side.rates):,.0f}",
            f"{side.median / alone:.2f}",
        )
        for side in sides
    ]
    channels, height, width = plan.shape
    colours = "grey" if channels == 1 else "colour"
    what_images = f"{width}x{height}, {colours}, {plan.encoded_bytes / 1000:.1f} kB"
    header = ("side", "images/s, median", "range", "of the decoder")
    print_table(f"Images of {what_images}, in batches of {batch}", header, rows)
    if plan.kept("train"):
        print("So few images are decoded once, and kept: the stream hardly decodes.")
    epoch = epoch_traffic(plan)
    print(
        f"An epoch of half A reads {epoch.read / 1e6:,.1f} MB of encoded images, uses "
        f"{epoch.used / 1e6:,.1f} MB and throws {epoch.thrown_away / 1e6:,.1f} MB away."
    )
