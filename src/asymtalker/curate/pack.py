"""The clips that are kept, as shards, and all of them, as the manifest and a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from asymtalker.curate.decide import Decided
from asymtalker.curate.recipe import Recipe
from asymtalker.curate.voice import voice_file
from asymtalker.curate.watch import FRAMED_BY, SEPARATED, last_stage
from asymtalker.curate.work import Work, settings_of
from asymtalker.dataset.corpus import EncodedClip, ManifestRow, ShardWriter
from asymtalker.media.atomic import atomic_path
from asymtalker.timeline import FPS
from asymtalker.training.run_folder import tracked

SHARD_CLIPS = 32
FIRST_SHARD = 100_000
"""So that real videos can be added to a synthetic corpus."""
END_SHARD = 200_000
"""From here on are those of :mod:`asymtalker.synth.reenact`."""
TABLE = "clips.parquet"


def write_corpus(
    writer: ShardWriter, work: Work, decided: Sequence[Decided], recipe: Recipe, without: Mapping[str, str]
) -> list[ManifestRow]:
    """Write the shards that are not there as they should be, the manifest, and a table of all videos, spans and clips
    with what became of them; returns the rows of the clips in shards, others' too."""
    clips = sorted((one for one in decided if one.kind == "clip"), key=lambda clip: clip.key)
    kept = [_encoded(work, clip, recipe, without) for clip in clips if clip.rejected_by is None]
    shards = [kept[start : start + SHARD_CLIPS] for start in range(0, len(kept), SHARD_CLIPS)]
    todo = [(index, shard) for index, shard in enumerate(shards, FIRST_SHARD) if not writer.holds(index, shard)]
    for index, shard in tracked(todo, "writing shards") if todo else ():
        writer.write_encoded(index, shard)
    for path in writer.folder.glob("shard-*.tar"):  # of an earlier decision, which kept more
        number = path.stem.removeprefix("shard-")
        if number.isdigit() and FIRST_SHARD + len(shards) <= int(number) < END_SHARD:
            path.unlink()
    rows = writer.write_manifest([_row(clip) for clip in clips if clip.rejected_by is not None])
    _write_table(work, decided)
    return [row for row in rows if row.shard]


def _row(clip: Decided) -> ManifestRow:
    return ManifestRow(
        key=clip.key,
        shard="",
        split="test" if clip.split == "test" else "train",
        source_id=clip.source_id,
        identity_id=clip.identity,
        voice_id=clip.identity,
        kind="real",
        fps=float(FPS),
        frames=clip.stop - clip.start,
        height=clip.size,
        width=clip.size,
        crop=clip.crop,
        scores=clip.scores_text,
        rejected_by=clip.rejected_by,
        licence=clip.licence,
        source=clip.source,
        start=clip.start / FPS,
    )


def _encoded(work: Work, clip: Decided, recipe: Recipe, without: Mapping[str, str]) -> EncodedClip:
    folder = work.span(clip.span) / f"face{clip.face}"
    stage = last_stage([name for name in recipe.networks if name not in without])
    mask = "parsed.mp4" if "bisenet" in recipe.networks and "bisenet" not in without else "mask.mp4"
    files = {"mp4": "clip.mp4", "mask.mp4": mask, "wav": voice_file(stage is SEPARATED)}
    made_by = {"faces": settings_of(recipe, FRAMED_BY)}
    made_by |= {stage.name: settings_of(recipe, stage.settings)}
    more: dict[str, Any] = {"curation": {"made_by": made_by, "without": sorted(without)}}
    return EncodedClip(row=_row(clip), files={name: folder / file for name, file in files.items()}, more=more)


def _write_table(work: Work, decided: Sequence[Decided]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = sorted((one.row() for one in decided), key=lambda row: (row["video"], row["kind"], row["key"]))
    with atomic_path(work.folder / TABLE) as partial:
        pq.write_table(pa.Table.from_pylist(rows) if rows else pa.table({"key": pa.array([], pa.string())}), partial)
