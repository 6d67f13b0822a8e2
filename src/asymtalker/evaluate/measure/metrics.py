"""What is measured: of every metric its name, its unit, which way is better, and what it says."""

from dataclasses import dataclass

from asymtalker.evaluate.measure.signals import SAME_BY_DLIB, SAME_PERSON


@dataclass(frozen=True)
class Metric:
    """What a number means.

    Attributes:
        title: for tables.
        unit: of the value.
        better: ``"low"``, ``"high"``, or ``"near"`` where it should be that of real video.
        about: what it is, in a sentence or two.
        needs: published networks it is not measured without.
    """

    title: str
    unit: str
    better: str
    about: str
    needs: tuple[str, ...] = ()


DLIB = ("dlib_points", "dlib_face")
ARCFACE = ("arcface", "yunet")
_SHUFFLED = "What chance gives: the same with another clip's."
METRICS = {
    "fid": Metric(
        "FID",
        "",
        "low",
        "Fréchet distance between Inception-v3's features of every fifth frame and those of all reference frames.",
        ("inception",),
    ),
    "fvd": Metric("FVD", "", "low", "The same of I3D's features of windows of 16 frames.", ("i3d",)),
    "fd_face": Metric(
        "Fréchet distance, expressions",
        "",
        "low",
        "The same of the 52 facial movements that the face mesh reads: no FID, blind to everything but expressions.",
    ),
    "sync_c": Metric("Sync-C", "", "high", "SyncNet's confidence that lips and sound belong together.", ("syncnet",)),
    "sync_d": Metric("Sync-D", "", "low", "SyncNet's distance of lips and sound where it is least.", ("syncnet",)),
    "sync_offset": Metric(
        "Offset of the picture", "frames", "near", "Where it is least; positive: the picture is late.", ("syncnet",)
    ),
    "sync_c_shuffled": Metric("Sync-C with another clip's sound", "", "near", _SHUFFLED, ("syncnet",)),
    "sync_d_shuffled": Metric("Sync-D with another clip's sound", "", "near", _SHUFFLED, ("syncnet",)),
    "face_found": Metric(
        "Frames in which a face is found", "share", "near", "Of those looked at: all, or one a second."
    ),
    "identity": Metric(
        "Identity (ArcFace similarity)",
        "cosine",
        "high",
        "Likeness of the face to the portrait's, five times a second; 1 is the same picture.",
        ARCFACE,
    ),
    "identity_drift": Metric(
        "Identity drift", "cosine a minute", "near", "Its slope over a clip; negative: the person is lost.", ARCFACE
    ),
    "identity_lost": Metric(
        "Clips that lose the person",
        "share",
        "low",
        f"Clips of which a second's mean falls under {SAME_PERSON}, or without a face for a second.",
        ARCFACE,
    ),
    "face_distance": Metric(
        "Identity (distance of dlib's embeddings)",
        "",
        "low",
        f"Of the face from the portrait's, once a second; two people are {SAME_BY_DLIB} or more apart.",
        DLIB,
    ),
    "face_distance_drift": Metric(
        "Drift of that distance", "a minute", "near", "Its slope over a clip; positive: the person is lost.", DLIB
    ),
    "face_distance_lost": Metric(
        "Clips that lose the person, by that distance",
        "share",
        "low",
        f"Clips of which a second is {SAME_BY_DLIB} or more away, or no second shows a face.",
        DLIB,
    ),
    "sharpness": Metric(
        "Sharpness of the face over the portrait's",
        "ratio",
        "near",
        "Of the spread of the Laplacian over the face, the portrait's scaled to the video; less than 1 is softer.",
    ),
    "colour_drift": Metric(
        "Colour, last second against first", "Delta E", "near", "Distance of the mean colours in CIE Lab."
    ),
    "contrast_drift": Metric(
        "Contrast, last second over first", "ratio", "near", "Of the spread of colours in CIE Lab; 1 is no drift."
    ),
    "seam_motion": Metric(
        "Change at seams over elsewhere",
        "ratio",
        "near",
        "How much more the picture changes where two chunks meet than between other frames; 1 is no seam.",
    ),
    "seam_colour": Metric("Colour step at seams over elsewhere", "ratio", "near", "The same of the mean colour."),
    "seam_head": Metric(
        "Step of the head at seams over elsewhere",
        "ratio",
        "near",
        "How far the eyes come in 0.2 s across a seam over how far elsewhere; 1 is no seam.",
    ),
    "head_motion": Metric("Head motion", "degrees", "near", "How far yaw, pitch and roll are from their means."),
    "head_motion_ratio": Metric(
        "Head motion over that of the real clips", "ratio", "near", "Of the means over clips; 1 moves as much."
    ),
    "head_diversity": Metric(
        "Diversity of head motion", "degrees", "near", "How differently heads move in two clips; 0 if all move alike."
    ),
    "blinks": Metric(
        "Blinks", "a minute", "near", "Lids that fall under 0.6 of their usual opening, for 0.6 s at most."
    ),
    "lip_correlation": Metric(
        "Lip aperture against truth",
        "correlation",
        "high",
        "Of the mouth's opening, read from the frames, with the true one (what is known of a synthetic clip, what is"
        " read from a real one), at the lag within 5 frames where it is best.",
    ),
    "lip_lag": Metric("Lag of the lips", "frames", "near", "That lag behind the sound; positive: lips are late."),
    "lip_amplitude": Metric(
        "Lip motion over the true one", "ratio", "near", "Of the spreads of that opening over a clip; 1 opens as far."
    ),
    "lip_correlation_shuffled": Metric("Lip aperture against another clip's truth", "correlation", "near", _SHUFFLED),
    "lip_closures": Metric(
        "Lips shut at p, b and m",
        "share",
        "high",
        "Of those with known times, within a frame. A mouth that never opens has them all: see how far lips move.",
    ),
    "blendshape_error": Metric(
        "Blendshape error",
        "weight",
        "low",
        "Mean distance of the facial movements, of 0 to 1, from the true ones, counted from a clip's mean.",
    ),
    "pose_error": Metric(
        "Head pose error",
        "degrees",
        "low",
        "From the true angles, both counted from a clip's mean.",
    ),
    "fps": Metric("Frames a second", "FPS", "high", "Of generation, from picture and sound to the finished file."),
    "fps_loaded": Metric("Frames a second, loading included", "FPS", "high", "The model is loaded anew for each."),
    "real_time_factor": Metric(
        "Seconds of computing per second of video", "ratio", "low", "Under 1 is faster than it plays."
    ),
    "first_chunk": Metric("First chunk after", "s", "low", "From the start of a video to its first frames."),
    "peak_memory": Metric("Peak memory of the process", "MiB", "low", "Of generation, everything loaded."),
    "peak_gpu_memory": Metric("Peak memory of the GPU", "MiB", "low", "Of generation."),
}
"""In the order of the tables."""
