"""What a chunk asks of a GPU, counted without one, and the FPS that no program can pass:
python benchmarks/floor.py RECIPE SIZE [--preview] [--gpu H200] [--share 0.7], where matrix products reach that share
of its peak, and a tiny decoder shows the video with --preview.
"""

import argparse

from asymtalker.bench.ceiling import count_costs
from asymtalker.media.portrait import parse_size
from asymtalker.recipes import recipe_named
from asymtalker.sizing.costs import on_meta
from asymtalker.sizing.empty import describe_chunk, describe_parts
from asymtalker.sizing.plan import gpu_named
from asymtalker.sizing.training import frozen_of_recipe
from asymtalker.training.network import build_transformer


def floor(name: str, size: tuple[int, int], operations: float, preview: bool = False) -> str:
    """A Markdown table of the operations of a later chunk by part, and of the time they take.

    Args:
        name: of the recipe.
        size: height and width in pixels.
        operations: floating-point operations a second.
        preview: the video is shown by the tiny decoder, and the codec decodes the end of a chunk alone.
    """
    recipe = recipe_named(name)
    frozen, chunk = frozen_of_recipe(recipe), recipe.teacher.chunk
    transformer = on_meta(lambda: build_transformer(recipe.teacher.model, frozen))
    network = describe_parts(transformer, frozen.codec.vae, frozen.audio_encoder) | {
        "size": list(size),
        **describe_chunk(chunk, preview=preview),
        "passes": recipe.sampler.num_steps,
        **dict.fromkeys(("dtype", "codec_dtype"), "bfloat16"),
    }
    costs = count_costs(network)
    passes, frames = recipe.sampler.num_steps, costs["new_frames"]
    parts = {f"transformer, {passes} passes": passes * costs["transformer"], "decoding": costs["decode"]}
    parts |= {"preview": costs["preview"]} if preview else {}
    parts |= {"encoding the last frames": costs["re_encode"], "sound": costs["audio"], "in all": costs["chunk"]}
    lines = [f"| {name}, {size[0]}x{size[1]} | TFLOP | seconds | FPS |", "| --- | ---: | ---: | ---: |"]
    for part, flops in parts.items():
        seconds = flops / operations
        lines.append(f"| {part} | {flops / 1e12:.1f} | {seconds:.3f} | {frames / seconds:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("size")
    parser.add_argument("--preview", action="store_true")
    parser.add_argument("--gpu", default="H200")
    parser.add_argument("--share", type=float, default=0.7)
    given = parser.parse_args()
    print(floor(given.recipe, parse_size(given.size), given.share * gpu_named(given.gpu).peak, given.preview))
