import pytest

from asymtalker.commands.cli import main
from asymtalker.commands.stages import PlanDistill, PlanTeacher, TrainTeacher, distill_settings, train_settings
from asymtalker.config import MotionCodecTrainConfig
from asymtalker.errors import UserError
from asymtalker.sizing.fit import GB, SLACK, what_fits
from asymtalker.sizing.plan import GPUS, Plan, describe_shortage, gpu_named, savings
from asymtalker.training.distributed import check_processes
from toy import toy_loop, toy_teacher

STATES = {"weights": 400 * GB, "moments": 800 * GB}


def made(config=None, gpus: int = 1) -> Plan:
    """A plan of round figures: activations of 10 GB a chunk and 2 GB of weights that every GPU holds."""
    config = config or toy_teacher(loop=toy_loop(autocast="float32"))
    states = {"weights": 20 * GB} if config.lora_rank else STATES
    check_processes(config.loop, config.lora_rank, gpus)
    return Plan(
        "teacher",
        config,
        size=(64, 64),
        gpus=gpus,
        parameters={"transformer": (10**11, 10**11)},
        states=states,
        passing=0,
        frozen=2 * GB,
        flops={"forward": 1e15},
        phases={"forward and backward": 10 * GB * config.loop.batch},
        reading=0,
        again=made,
    )


def shared(gpus: int) -> Plan:
    return made(toy_teacher(loop=toy_loop(autocast="float32", micro_batches=gpus)), gpus)


def test_states_are_shared_out_and_the_rest_is_not():
    alone, eight = made(), shared(8)
    for name, size in STATES.items():
        assert eight.gpu_memory()[name] == alone.gpu_memory()[name] / 8 == size / 8
    for plan in (alone, eight):
        rest = {name: size for name, size in plan.gpu_memory().items() if name not in STATES and "slack" not in name}
        assert sum(rest.values()) == pytest.approx(22 * GB)  # 2 whole, 2 x 10 activations
        assert plan.total() == pytest.approx((1 + SLACK) * (sum(STATES.values()) / plan.gpus + 22 * GB))


def test_offloaded_states_leave_the_gpu():
    config = toy_teacher(loop=toy_loop(autocast="float32", cpu_offload=True))
    plan = made(config)
    assert plan.total() == pytest.approx((1 + SLACK) * 22 * GB)
    assert not STATES.keys() & plan.gpu_memory().keys()


def test_time_is_operations_over_what_the_gpus_reach():
    gpu = gpu_named("a100")
    plan = shared(2)
    assert plan.seconds(gpu, 0.5) == pytest.approx(1e15 / (2 * 312e12 * 0.5))


def fitting(plan: Plan, memory: float) -> list[str]:
    return what_fits(plan, savings(plan), Plan.total, memory)


def test_what_is_suggested_fits_and_what_is_not_does_not():
    plan = made()
    assert fitting(plan, 60 * GB) == [
        "--config.loop.cpu-offload (24.2 GB)",
        "64 GPUs of this memory with --config.loop.micro-batches 64 (44.8 GB)",
        "--config.lora-rank 64 (46.2 GB)",
    ]
    assert shared(64).total() <= 60 * GB < shared(32).total()
    offloaded = toy_teacher(loop=toy_loop(autocast="float32", cpu_offload=True))
    assert made(offloaded).total() <= 60 * GB
    # one change alone does not do; with chunks one by one, 12 GB and their slack are left beside the states
    smaller = "--config.loop.batch 1"
    more = "512 GPUs of this memory with --config.loop.micro-batches 512"
    assert fitting(plan, 16 * GB) == [
        f"{smaller} and --config.loop.cpu-offload (13.2 GB)",
        f"{smaller} and {more} (15.8 GB)",
    ]
    assert fitting(plan, 14 * GB) == [
        f"{smaller} and --config.loop.cpu-offload (13.2 GB)",
    ]
    assert fitting(plan, 2 * GB) == []


def test_too_little_memory_is_one_sentence_with_what_would_fit():
    said = describe_shortage(made(), 60 * GB)
    assert said.startswith("Teacher at 64x64 needs 1344.2 GB on one GPU, and 60.0 GB are there; what fits: --config")
    assert said.endswith(" or --config.lora-rank 64 (46.2 GB).")
    assert "nothing that can be set makes it fit" in describe_shortage(made(), 2 * GB)


def test_gpus_are_found_by_name():
    assert gpu_named("rtx 4090").name == "RTX4090"
    assert gpu_named("a100-40gb").memory == 40 * GB
    assert all(gpu_named(gpu.name) is gpu for gpu in GPUS)
    with pytest.raises(UserError, match="There is no GPU abacus"):
        gpu_named("abacus")


def test_dry_run_chooses_the_settings_that_need_no_folders():
    assert train_settings(["--dry-run"])[0] is PlanTeacher
    for settings in (train_settings, distill_settings):
        with pytest.raises(UserError, match=r"--gpus goes with --dry-run; .* torchrun"):
            settings(["--gpus", "4"])
    assert train_settings([])[0] is TrainTeacher
    with pytest.raises(UserError, match="nothing to plan for --part codec"):
        train_settings(["--part", "codec", "--dry-run"])
    settings, config = train_settings(["--part", "codec"])
    assert isinstance(config, MotionCodecTrainConfig)
    assert settings is not PlanTeacher


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (["--size", "96x64"], "teacher, 96x64"),
        (["--config.buckets", "64", "96", "96", "64"], "teacher, 64x96"),
        (["--size", "64"], "teacher, 64x64"),
    ],
)
def test_size_is_height_and_width(flags, shown, capsys):
    main(["train", "--recipe", "smoke", "--dry-run", *flags])
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["train", "distill"])
def test_a_dry_run_prints_the_tables(verb, capsys):
    main([verb, "--recipe", "smoke", "--dry-run", "--size", "256x256", "--corpus", "nowhere", "--run", "nowhere"])
    printed = capsys.readouterr().out
    for part in ("parameters", "operations of a step", "memory of each process", "hours", "fits:"):
        assert part in printed


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--gpu", "abacus"], "There is no GPU abacus"),
        (["--size", "big"], "--size is a number of pixels"),
        (["--gpus", "3"], "3 processes can't share out"),
        (["--efficiency", "40"], "--efficiency is a share"),
    ],
)
def test_bad_flags_of_a_dry_run_are_one_sentence(flags, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["distill", "--recipe", "smoke", "--dry-run", *flags])
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


def test_help_of_a_training_tells_of_the_dry_run(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--dry-run" in capsys.readouterr().out


def test_plan_of_a_distillation_has_its_own_settings():
    from asymtalker.commands.stages import distill_settings

    assert distill_settings(["--dry-run"])[0] is PlanDistill
