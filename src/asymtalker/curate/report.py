"""report.html: what became of everything, where scores lie against their limits, and clips to look at."""

import base64
import html
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from asymtalker import __version__
from asymtalker.curate.decide import Decided
from asymtalker.curate.recipe import Recipe, score_meanings
from asymtalker.curate.work import Work
from asymtalker.errors import UserError
from asymtalker.media.atomic import write_atomic
from asymtalker.media.video import decode_frames
from asymtalker.timeline import FPS

SHOWN = 12
"""Clips of each kind."""
LISTED = 200
"""Rows of a table."""
THUMBNAIL = 128
BINS = 40
FUNNEL = (
    ("licence", "licence"),
    ("read", "quarantined unreadable sound source_pixels sound_heard drift"),
    ("duplicates", "duplicate"),
    ("clips", "short"),
    ("faces", "face_visible face_pixels face_cut face_score outside shake frames"),
    ("pictures", "frozen jump sharpness quality"),
    ("covered faces, letters", "hidden hands points_missing pose_hands text"),
    ("who speaks", "speaking"),
    ("sync", "video_sync sync offset sync_confidence sync_distance"),
    ("sound", "clipped dropout silence snr"),
)
"""Stages and the filters that belong to them."""
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}
td.n{text-align:right;font-variant-numeric:tabular-nums}.bar{background:#2a7;height:.9rem;display:inline-block}
td.n{white-space:nowrap}.wide{overflow-x:auto}
.bad{background:#c44}.grid{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;width:16.5rem;font-size:12px}
figure img{max-width:100%;display:block}svg{display:block}.scores figure{width:20rem}"""


def write_report(
    folder: Path,
    work: Work,
    decided: Sequence[Decided],
    recipe: Recipe,
    without: Mapping[str, str],
    about: Mapping[str, str],
) -> None:
    """Write ``report.html`` into the corpus folder; it needs no other file. ``about`` is what was asked for."""
    clips = [one for one in decided if one.kind == "clip"]
    kept = [clip for clip in clips if clip.rejected_by is None]
    videos = sum(one.kind == "video" for one in decided)
    hours = sum(clip.stop - clip.start for clip in kept) / FPS / 3600
    people = len({clip.identity for clip in kept})
    asked = {**about, "version": __version__, "date": f"{datetime.now():%Y-%m-%d %H:%M}"}
    rejected = [clip for clip in clips if clip.rejected_by]
    parts = [
        f"<h1>Curation</h1><p>{'. '.join(f'{name.capitalize()}: {_text(said)}' for name, said in asked.items())}.</p>"
        f"<p>Videos: {videos}. Clips kept: {len(kept)} of {len(clips)}, {_long(hours)}. "
        f"People: {people}. Clips held out: {sum(clip.split == 'test' for clip in kept)}.</p>",
        *(f"<p>Without {_text(name)}: {_text(why)}</p>" for name, why in without.items()),
        f"<h2>What became of them</h2>{_funnel(decided)}",
        f"<h2>Who and whose</h2>{_people(kept)}",
        f"<h2>Rates</h2>{_rates(decided)}",
        f"<h2>Scores and their limits</h2><div class='grid scores'>{''.join(_histograms(decided, recipe))}</div>",
        f"<h2>{_some('Kept', kept)}</h2><div class='grid'>{''.join(_samples(work, kept))}</div>",
        f"<h2>{_some('Left out', rejected)}</h2><div class='grid'>{''.join(_samples(work, rejected))}</div>",
        f"<h2>Videos and spans left out</h2>{_left_out(decided)}",
    ]
    head = "<!doctype html><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    page = f"{head}<title>Curation</title><style>{STYLE}</style>{''.join(parts)}"
    write_atomic(folder / "report.html", page)


def _some(what: str, clips: Sequence[Decided]) -> str:
    return f"{what}, {SHOWN} of {len(clips)}" if len(clips) > SHOWN else what


def _people(kept: Sequence[Decided]) -> str:
    """Who is in the corpus, on which side, and whose the videos are, those of most clips first."""
    rows = Counter((one.identity, one.split, one.licence or "not said", one.source or "") for one in kept)
    cells = "".join(
        f"<tr><td>{_text(who)}<td>{split}<td class='n'>{count}<td>{_text(licence)}<td>{_text(source)}"
        for (who, split, licence, source), count in rows.most_common(LISTED)
    )
    more = f"<p>and {len(rows) - LISTED} more, in manifest.parquet.</p>" if len(rows) > LISTED else ""
    head = "<tr><th>person<th>split<th>clips<th>licence<th>source</tr>"
    return f"<div class='wide'><table>{head}{cells}</table></div>{more}"


def _long(hours: float) -> str:
    return f"{hours:.2f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _text(value: object) -> str:
    return html.escape(str(value))


def _funnel(decided: Sequence[Decided]) -> str:
    """What each stage left out, and what is left after it, in seconds of video."""
    lost: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    for one in decided:
        if one.rejected_by:
            lost[one.rejected_by] += 1
            seconds[one.rejected_by] += (one.stop - one.start) / FPS
    kept = sum((one.stop - one.start) / FPS for one in decided if one.kind == "clip" and not one.rejected_by)
    left = kept + sum(seconds.values())
    rows, whole = [], max(left, 1e-9)
    for stage, names in FUNNEL:
        gone = [(name, lost[name], seconds[name]) for name in names.split() if lost[name]]
        left -= sum(one[2] for one in gone)
        why = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count, _ in gone)
        rows.append(
            f"<tr><td>{stage}<td class='n'>{sum(one[1] for one in gone)}<td>{why}<td class='n'>{left:.1f} s"
            f"<td><span class='bar' style='width:{20 * left / whole:.2f}rem'></span>"
        )
    return f"<div class='wide'><table><tr><th>stage<th>left out<th>why<th>left<th></tr>{''.join(rows)}</table></div>"


def _rates(decided: Sequence[Decided]) -> str:
    """Seconds of video that a second of one core gets through, by stage."""
    spent: defaultdict[str, float] = defaultdict(float)
    watched: defaultdict[str, float] = defaultdict(float)
    for one in decided:
        for stage, seconds in one.seconds.items():
            if seconds:
                spent[stage] += seconds
                watched[stage] += (one.stop - one.start) / FPS
    rows = "".join(
        f"<tr><td>{stage}<td class='n'>{watched[stage]:.0f} s<td class='n'>{spent[stage]:.0f} s"
        f"<td class='n'>{watched[stage] / spent[stage]:.2f}"
        for stage in spent
    )
    head = "<tr><th>stage<th>video<th>spent<th>hours of video an hour of a core</tr>"
    return f"<div class='wide'><table>{head}{rows}</table></div>"


def _histograms(decided: Sequence[Decided], recipe: Recipe) -> Iterable[str]:
    limits = {name: (side, limit) for name, side, limit in recipe.limits()}
    names = sorted({name for one in decided for name in one.scores}, key=lambda name: (name not in limits, name))
    for name in names:
        values = np.array([one.scores[name] for one in decided if one.scores.get(name) is not None], float)
        values = values[np.isfinite(values)]
        if len(values):
            yield f"<figure>{_histogram(values, limits.get(name))}<figcaption>{_about(name, values, limits)}</figure>"


def _about(name: str, values: np.ndarray, limits: Mapping[str, tuple[str, float]]) -> str:
    said = f"<b>{name.replace('_', ' ')}</b>, {len(values)} values, median {np.median(values):.3g}"
    said += f"; at {limits[name][0]} {limits[name][1]:g}" if name in limits else "; no limit"
    meaning = score_meanings().get(name)
    return said + (f"<br>{_text(meaning)}" if meaning else "")


def _histogram(values: np.ndarray, limit: tuple[str, float] | None) -> str:
    """An SVG of 300 x 90; what a limit rejects is red."""
    low, high = (float(np.percentile(values, share)) for share in (0.5, 99.5))
    if limit is not None:
        low, high = min(low, limit[1]), max(high, limit[1])
    high = high if high > low else low + 1
    counts, edges = np.histogram(np.clip(values, low, high), BINS, (low, high))
    bars = []
    for index, count in enumerate(counts):
        middle = (edges[index] + edges[index + 1]) / 2
        bad = limit is not None and (middle < limit[1] if limit[0] == "least" else middle > limit[1])
        height = 60 * count / max(1, counts.max())
        colour = "#c44" if bad else "#2a7"
        bars.append(
            f"<rect x='{index * 7.5:.1f}' y='{72 - height:.1f}' width='7' height='{height:.1f}' fill='{colour}'/>"
        )
    if limit is not None:
        x = 300 * (limit[1] - low) / (high - low)
        bars.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='0' y2='72' stroke='#222' stroke-dasharray='3'/>")
    ends = f"<text x='0' y='86' font-size='11'>{low:.3g}</text><text x='0' y='9' font-size='11'>{counts.max()}</text>"
    ends += f"<text x='300' y='86' font-size='11' text-anchor='end'>{high:.3g}</text>"
    return f"<svg width='300' height='90' viewBox='0 0 300 90'>{''.join(bars)}{ends}</svg>"


def _samples(work: Work, clips: Sequence[Decided]) -> Iterable[str]:
    """Some clips, each filter's among them, with three frames and why they were left out."""
    turns: dict[str, list[Decided]] = {}
    for clip in clips:
        turns.setdefault(clip.rejected_by or "", []).append(clip)
    order = (clip for turn in range(SHOWN) for those in turns.values() for clip in those[turn : turn + 1])
    for clip in islice(order, SHOWN):
        said = f"{_text(clip.key)}<br>{_text(clip.why or f'{clip.identity}, {clip.split}')}"
        yield f"<figure>{_strip(work, clip)}<figcaption>{said}</figcaption></figure>"


def _strip(work: Work, clip: Decided) -> str:
    """Three frames of a clip beside each other, as an image in the page."""
    wanted = [round(share * (clip.stop - clip.start - 1)) for share in (0.1, 0.5, 0.9)]
    try:
        frames = decode_frames(work.span(clip.span) / f"face{clip.face}" / "clip.mp4")
        kept = {number: frame for number, frame in enumerate(frames) if number in wanted}
        chosen = [kept[number] for number in wanted]
    except (UserError, KeyError) as error:
        return f"<p>{_text(error)}</p>"
    pictures = [np.asarray(Image.fromarray(frame).resize((THUMBNAIL, THUMBNAIL))) for frame in chosen]
    data = io.BytesIO()
    Image.fromarray(np.concatenate(pictures, 1)).save(data, "JPEG", quality=80)
    return f"<img src='data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}' alt=''>"


def _left_out(decided: Sequence[Decided]) -> str:
    out = [one for one in decided if one.kind != "clip" and one.rejected_by]
    rows = "".join(
        f"<tr><td>{_text(one.source_id)}{_seconds(one)}<td>{_text(one.rejected_by)}<td>{_text(one.why)}"
        for one in islice(out, LISTED)
    )
    more = f"<p>and {len(out) - LISTED} more, in curation/clips.parquet.</p>" if len(out) > LISTED else ""
    head = "<tr><th>what<th>filter<th>why</tr>"
    return f"<div class='wide'><table>{head}{rows}</table></div>{more}" if out else "<p>None.</p>"


def _seconds(one: Decided) -> str:
    return f", {one.start / FPS:.2f} to {one.stop / FPS:.2f} s" if one.kind == "span" else ""
