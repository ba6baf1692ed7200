"""What a study file may say, and the exact words for everything it may not."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from kdbench.check import check_files
from kdbench.config import (
    FREE_ON_RESUME,
    StudyConfig,
    bench,
    differences,
    from_settings,
    list_studies,
    load_study,
    settings,
    settings_hash,
)
from kdbench.errors import ConfigError
from kdbench.parameters import Choice, FloatRange
from kdbench.records import Coordinates

REPOSITORY = Path(__file__).parents[2]
SPACE = """\
encoder: {width: [16, 32], kernel: 5, activation: gdn}
decoder: {width: [16, 32], kernel: 5, activation: gdn}
hyper: {width: 16}
latent: {channels: 192}
training: {learning_rate: {low: 3e-4, high: 2e-3, log: true}}
"""
STUDY = """\
space: tiny
objectives: [bd_rate_pct, kmac_per_px]
anchor: teacher:default
trials: 4
sampler: {name: tpe, enqueue: diagonal}
constraints: {params_max: 3_000_000}
data: {train: builtin, crops: 64}
training: {steps: 10, batch: 4, crop_px: 64, rd_lambdas: [0.0018, 0.0035, 0.0067, 0.013, 0.025]}
energy: {window_s: 1, windows: 5, require: any}
seed: 0
"""
FIX = "\n  fix: correct what is listed; `kdbench check` reads every study and space file again"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the study `demo` on the space `tiny`."""
    monkeypatch.chdir(tmp_path)
    write("search_spaces/tiny.yaml", SPACE)
    write("studies/demo.yaml", STUDY)
    return tmp_path


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(text)


def message(*overrides: str, study: str = "demo") -> str:
    with pytest.raises(ConfigError) as caught:
        load_study(study, overrides)
    return str(caught.value)


# --- what is read ----------------------------------------------------------------------------


def test_a_study_is_read_with_its_space_and_named_after_its_file() -> None:
    study = load_study("demo")
    assert (study.name, study.space.name, study.trials) == ("demo", "tiny", 4)
    assert study.space.encoder.width == Choice(values=(16, 32))
    assert study.space.training.learning_rate == FloatRange(low=3e-4, high=2e-3, log=True)
    assert study.energy.window_s == 1.0
    assert study.data.validation == "builtin"
    assert study.constraints.limits == {"params": 3e6}
    assert study.workers is None


def test_a_study_is_found_by_name_and_by_path() -> None:
    assert load_study("studies/demo.yaml") == load_study("demo") == load_study(Path("demo"))


def test_the_working_folder_wins_over_what_came_with_kdbench() -> None:
    assert load_study("smoke").trials == 2
    write("studies/smoke.yaml", STUDY)
    assert load_study("smoke").trials == 4
    packaged = {name for name in list_studies() if not name.startswith("paper_")}
    assert packaged == {"demo", "smoke", "kd_pareto", "kd_pareto_long", "frontier"}


PAPER_SEARCHES = [
    *("paper_channels", "paper_rate", "paper_weights", "paper_latent_kl", "paper_hyper"),
    *("paper_hybrid", "paper_autoencoder"),
]


@pytest.mark.parametrize(
    "name", ["kd_pareto", "kd_pareto_long", "frontier", "smoke", *PAPER_SEARCHES]
)
def test_what_comes_with_kdbench_is_valid_and_says_its_command(name: str) -> None:
    assert load_study(name).name == name
    first = (REPOSITORY / f"studies/{name}.yaml").read_text().splitlines()[0]
    assert first == f"# kdbench search --study {name}"


def test_settings_survive_json_and_name_the_same_study() -> None:
    study = load_study("kd_pareto", ["space.hyper.width={low: 16, high: 64, step: 16}"])
    stored = json.loads(json.dumps(settings(study)))
    assert from_settings(stored, "study.json") == study


def test_settings_written_by_hand_are_checked_like_a_file() -> None:
    tree = settings(load_study("demo")) | {"trials": "many"}
    with pytest.raises(ConfigError) as caught:
        from_settings(tree, "runs/demo/study.json")
    assert str(caught.value) == (
        f'runs/demo/study.json: trials: got "many"; must be a whole number{FIX}'
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1.0e-3", 1e-3), (".5", 0.5), ("1", 1.0), ("1_000.5", None), ("1:30", None)],
)
def test_numbers_are_those_of_yaml_1_2(text: str, value: float | None) -> None:
    override = f"space.training.learning_rate={text}"
    if value is None:
        assert message(override).endswith(f'got "{text}"; must be a number above 0{FIX}')
    else:
        rate = load_study("demo", [override]).space.training.learning_rate
        assert rate == Choice(values=(value,))


# --- overrides -------------------------------------------------------------------------------


def test_overrides_reach_into_study_and_space_and_the_last_one_wins() -> None:
    study = load_study(
        "demo", ["trials=9", "space.encoder.width=[24, 48]", "timeout_s=60", "trials=7"]
    )
    assert (study.trials, study.timeout_s) == (7, 60.0)
    assert study.space.encoder.width == Choice(values=(24, 48))
    assert study.space.decoder.width == Choice(values=(16, 32))


def test_another_space_can_be_taken_and_then_changed() -> None:
    study = load_study("demo", ["space=hyperprior", "space.hyper.width=64"])
    assert study.space.name == "hyperprior"
    assert study.space.hyper.width == Choice(values=(64,))


def test_one_end_of_a_range_can_be_overridden() -> None:
    study = load_study("demo", ["space.training.learning_rate.low=1e-4"])
    assert study.space.training.learning_rate == FloatRange(low=1e-4, high=2e-3, log=True)


# --- wrong input, word for word --------------------------------------------------------------

WRONG_VALUES = {
    "trials=many": 'trials: got "many"; must be a whole number',
    "trials='4'": 'trials: got "4"; must be a whole number',
    "trials=4.0": "trials: got 4.0; must be a whole number",
    "trials=true": "trials: got true; must be a whole number",
    "trials=": "trials: got null; must be a whole number",
    "trials=010": 'trials: got "010"; must be a whole number',
    "trials=0": "trials: got 0; must be at least 1",
    "timeout_s=-1": "timeout_s: got -1; must be above 0",
    "timeout_s=.inf": "timeout_s: got Infinity; must be above 0",
    "timeout_s=.nan": "timeout_s: got NaN; must be above 0",
    "timeout_s=1h": 'timeout_s: got "1h"; must be a number',
    "workers=0": "workers: got 0; must be at least 1",
    "seed=-1": "seed: got -1; must be at least 0",
    "name=a/b": 'name: got "a/b"; must be letters, digits, `-`, `_` and `.`, and not be `cache`',
    "name=cache": 'name: got "cache"; must be letters, digits, `-`, `_` and `.`, and not be '
    "`cache`",
    "name=3": "name: got 3; must be text",
    "device=gpu": 'device: got "gpu"; must be auto, cpu, cuda or cuda:N',
    "device=cuda:x": 'device: got "cuda:x"; must be auto, cpu, cuda or cuda:N',
    "anchor=techer:default": 'anchor: got "techer:default"; must be teacher:NAME, file:PATH, '
    "trial:STUDY/N, zoo:MODEL/QUALITY or one of jpeg, webp, jpeg2000, avif",
    "anchor=trial:demo": 'anchor: got "trial:demo"; must be teacher:NAME, file:PATH, '
    "trial:STUDY/N, zoo:MODEL/QUALITY or one of jpeg, webp, jpeg2000, avif",
    "start=zoo:bmshj2018-hyperprior/3": 'start: got "zoo:bmshj2018-hyperprior/3"; must be '
    "teacher:NAME, file:PATH or trial:STUDY/N",
    "start=trial:demo": 'start: got "trial:demo"; must be teacher:NAME, file:PATH or trial:STUDY/N',
    "objectives=[]": "objectives: got []; needs at least one objective",
    "objectives=params": 'objectives: got "params"; must be a list',
    "objectives=[params, params]": 'objectives: got ["params", "params"]; params is there twice',
    "objectives=[params, bd_rate]": 'objectives.1: got "bd_rate"; must be one of: bd_rate_pct, ',
    "sampler.name=tpee": 'sampler.name: got "tpee"; must be one of: tpe, ',
    "sampler=tpe": 'sampler: got "tpe"; must be a mapping with keys of: name, enqueue, points',
    "constraints.params_max=0": "constraints.params_max: got 0; must be above 0",
    "data.crops=2": "data.crops: got 2; must be at least training.batch, 4",
    "data.cache_gib=0": "data.cache_gib: got 0; must be above 0",
    "training.steps=0": "training.steps: got 0; must be at least 1",
    "training.batch=0": "training.batch: got 0; must be at least 1",
    "training.crop_px=100": "training.crop_px: got 100; must be a multiple of 64",
    "training.precision=fp16": 'training.precision: got "fp16"; must be one of: bf16, fp32, auto',
    "training.rd_lambdas=[.1, .2, .3]": "training.rd_lambdas: got [0.1, 0.2, 0.3]; needs at least "
    "5 values: BD-rate compares curves",
    "training.rd_lambdas=[.1, .2, .3, .5, .4]": "training.rd_lambdas: got [0.1, 0.2, 0.3, 0.5, "
    "0.4]; must ascend, each value once",
    "training.rd_lambdas=[.1, .2, .2, .3, .4]": "training.rd_lambdas: got [0.1, 0.2, 0.2, 0.3, "
    "0.4]; must ascend, each value once",
    "training.rd_lambdas=[0, .1, .2, .3, .4]": "training.rd_lambdas: got [0, 0.1, 0.2, 0.3, 0.4]; "
    "every value must be above 0",
    "training.rd_lambdas=[a, .1, .2, .3, .4]": 'training.rd_lambdas.0: got "a"; must be a number',
    "energy.meter=nvm": 'energy.meter: got "nvm"; must be one of: nvml, ',
    "energy.windows=0": "energy.windows: got 0; must be at least 1",
    "energy.window_s=0": "energy.window_s: got 0; must be above 0",
    "energy.require=all": 'energy.require: got "all"; must be one of: any, measured',
    "trainng.steps=5": "trainng: no such key; did you mean training?",
    "training.stepz=5": "training.stepz: no such key; did you mean steps?",
    "training.xyz=5": "training.xyz: no such key; known here: steps, batch, crop_px, rd_lambdas, "
    "precision, rate, distortion",
    "constraints.params=5": "constraints.params: no such key; did you mean params_max?",
    "space.encodr.width=5": "space.encodr: no such key; did you mean encoder?",
    "space.encoder.wdth=5": "space.encoder.wdth: no such key; did you mean width?",
    "space.encoder=5": "space.encoder: got 5; must be a mapping with keys of: width, kernel, "
    "activation, convolution",
    "space=tinny": 'space: got "tinny"; there is no such space; known, nearest first: tiny, '
    "frontier, hyperprior, smoke",
    "space=3": "space: got 3; must be a mapping with keys of: name, encoder, decoder, hyper, "
    "latent, codec, distillation, training",
    "trials.x=3": "trials.x: trials has no keys; set it whole",
    "trials": 'got "trials"; must read key=value or key.path=value',
    "=3": 'got "=3"; must read key=value or key.path=value',
    "a..b=3": 'got "a..b=3"; must read key=value or key.path=value',
    "trials=[": 'trials: got "["; is not YAML: expected the node content, but found \'<stream '
    "end>'",
    "trials=!!python/name:os.system": 'trials: got "!!python/name:os.system"; is not YAML: could '
    "not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'",
    "trials=!!timestamp 2026-11-23": 'trials: got "!!timestamp 2026-11-23"; is not YAML: only '
    "text, numbers, true, false and null may be values",
}


@pytest.mark.parametrize(("override", "text"), WRONG_VALUES.items(), ids=str)
def test_each_wrong_value_is_told_with_place_value_and_rule(override: str, text: str) -> None:
    said = message(override)
    if text.endswith(", "):  # all known names follow; which ones is tested below
        assert said.startswith(f"--set: {text}")
    else:
        assert said == f"--set: {text}{FIX}"


def test_an_unknown_objective_lists_all_of_them_nearest_first() -> None:
    assert message("objectives=[bd_rate]") == (
        '--set: objectives.0: got "bd_rate"; must be one of: bd_rate_pct, params, '
        "validation_loss, kmac_per_px, decode_s_per_mpx, decode_j_per_mpx, "
        "decoder_kmac_per_px, energy_j_per_mpx, "
        f"encode_j_per_mpx{FIX}"
    )


def test_an_energy_goal_needs_a_meter() -> None:
    assert message("energy.meter=none", "objectives=[decode_j_per_mpx]") == (
        f'--set: energy.meter: got "none"; decode_j_per_mpx needs a meter{FIX}'
    )
    assert message("energy.meter=none", "constraints.energy_j_per_mpx_max=3") == (
        f'--set: energy.meter: got "none"; energy_j_per_mpx_max needs a meter{FIX}'
    )
    assert load_study("demo", ["energy.meter=none"]).energy.meter == "none"


WRONG_FILES = {
    "seed: 1\ntrials": "studies/demo.yaml:13: is not YAML: could not find expected ':'",
    "seed: 1": "studies/demo.yaml:11: seed: is there twice, first on line 10",
    "objectivs: [params]": "studies/demo.yaml:11: objectivs: no such key; did you mean objectives?",
    "workers: two": 'studies/demo.yaml:11: workers: got "two"; must be a whole number',
    "? [a, b]\n: 1": None,
    "workers: &a [*a]": "studies/demo.yaml:11: is not YAML: nested too deep",
    "workers: \x00": "studies/demo.yaml: is not YAML: unacceptable character #x0000: special "
    "characters are not allowed",
}


@pytest.mark.parametrize(("line", "text"), WRONG_FILES.items(), ids=repr)
def test_each_wrong_line_is_told_with_its_number(line: str, text: str | None) -> None:
    write("studies/demo.yaml", f"{STUDY}{line}\n")
    said = message()
    assert said.startswith("studies/demo.yaml:11: ") if text is None else said == f"{text}{FIX}"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"- a\n- b\n", 'studies/demo.yaml: got ["a", "b"]; must be a mapping of keys'),
        (b"just text", 'studies/demo.yaml: got "just text"; must be a mapping of keys'),
        (b"\xff\xfe\xfa", "studies/demo.yaml: cannot be read: it is not UTF-8 text"),
        (b"a: 1\n---\nb: 2\n", "studies/demo.yaml:2: is not YAML: but found another document"),
    ],
)
def test_a_file_that_is_no_mapping_says_so_once(content: bytes, text: str) -> None:
    Path("studies/demo.yaml").write_bytes(content)
    assert message() == f"{text}{FIX}"


def test_an_empty_file_lists_what_is_missing() -> None:
    write("studies/demo.yaml", "# nothing yet\n")
    assert message() == (
        "4 problems:\n"
        "  studies/demo.yaml: space: is missing\n"
        "  studies/demo.yaml: objectives: is missing\n"
        "  studies/demo.yaml: trials: is missing\n"
        f"  studies/demo.yaml: training: is missing{FIX}"
    )


def test_every_problem_of_study_space_and_overrides_is_told_at_once_with_its_file() -> None:
    write("search_spaces/tiny.yaml", SPACE.replace("channels: 192", "chanels: 192"))
    write("studies/demo.yaml", STUDY.replace("trials: 4", "trials: four").replace("0.025", "0.01"))
    assert message("seed=x") == (
        "5 problems:\n"
        "  search_spaces/tiny.yaml:4: latent.channels: is missing\n"
        "  search_spaces/tiny.yaml:4: latent.chanels: no such key; did you mean channels?\n"
        '  studies/demo.yaml:4: trials: got "four"; must be a whole number\n'
        '  --set: seed: got "x"; must be a whole number\n'
        "  studies/demo.yaml:8: training.rd_lambdas: got [0.0018, 0.0035, 0.0067, 0.013, 0.01]; "
        f"must ascend, each value once{FIX}"
    )


def test_a_space_that_is_not_yaml_is_told_once_beside_the_problems_of_the_study() -> None:
    write("search_spaces/tiny.yaml", "encoder: {")
    write("studies/demo.yaml", STUDY.replace("trials: 4", "trials: four"))
    assert message() == (
        "2 problems:\n"
        "  search_spaces/tiny.yaml:1: is not YAML: expected the node content, but found '<stream "
        "end>'\n"
        f'  studies/demo.yaml:4: trials: got "four"; must be a whole number{FIX}'
    )


@pytest.mark.parametrize("name", ["kd_paretto", "studies/kd_paretto.yaml", "no/kd_paretto"])
def test_an_unknown_study_lists_the_known_ones_nearest_first(name: str) -> None:
    assert message(study=name) == (
        f'there is no study "{name}"\n'
        "  fix: known here, nearest first: kd_pareto, kd_pareto_long, demo, paper_resources, "
        "paper_rate, paper_latent_kl, paper_autoencoder, paper_codecs, paper_weights, paper_hyper, "
        "paper_hybrid, paper_channels, frontier, smoke; or give the path of a .yaml file"
    )


# --- check -----------------------------------------------------------------------------------


def test_check_finds_nothing_wrong_with_what_is_right() -> None:
    assert check_files() == []
    assert (
        check_files(["demo", "tiny", "hyperprior"], {"teacher:default": Coordinates(192, "scale")})
        == []
    )


def test_check_lists_the_problems_of_all_files_and_each_one_once() -> None:
    write("search_spaces/tiny.yaml", SPACE.replace("kernel: 5", "kernel: 4"))
    write("studies/other.yaml", STUDY.replace("crop_px: 64", "crop_px: 65"))
    wrong = [
        f"search_spaces/tiny.yaml:{line}: {side}.kernel: got 4; must be 3 or 5"
        for line, side in [(1, "encoder"), (2, "decoder")]
    ]
    crop = "studies/other.yaml:8: training.crop_px: got 65; must be a multiple of 64"
    assert list(map(str, check_files())) == [*wrong, crop]
    assert list(map(str, check_files(["tiny"]))) == wrong
    assert list(map(str, check_files(["search_spaces/tiny.yaml", "tiny"]))) == wrong


def test_check_of_an_unknown_name_is_a_problem_like_another() -> None:
    (problem,) = check_files(["tinny"])
    assert str(problem) == (
        'check: got "tinny"; there is no such study, space or file; known, nearest first: tiny, '
        "frontier, paper_channels, kd_pareto_long, paper_latent_kl, paper_autoencoder, kd_pareto, "
        "paper_rate, hyperprior, paper_hyper, paper_hybrid, paper_weights, smoke, paper_resources, "
        "paper_codecs, demo"
    )


def test_check_refuses_what_no_trial_could_use() -> None:
    write("search_spaces/tiny.yaml", SPACE + "distillation: {teacher: teacher:big, entropy: 0.1}")
    assert check_files(["tiny"], {"teacher:big": Coordinates(192, "scale")}) == []
    assert list(map(str, check_files(["tiny"], {"teacher:big": Coordinates(320, "scale")}))) == [
        "search_spaces/tiny.yaml:6: distillation.entropy: needs a latent.channels of 320 with "
        "hyper.prior scale, the teacher's"
    ]
    assert list(map(str, check_files(["demo"], {"teacher:bug": Coordinates(192, "scale")}))) == [
        "search_spaces/tiny.yaml:6: distillation.teacher: there is no teacher:big; known, nearest "
        "first: teacher:bug"
    ]


# --- going on, and the bench -----------------------------------------------------------------


def test_trials_timeout_workers_and_twins_may_change_while_a_study_goes_on() -> None:
    began = load_study("demo")
    now = load_study("demo", ["trials=99", "timeout_s=5", "workers=7", "twins=3"])
    assert differences(began, now) == []
    assert settings_hash(began) == settings_hash(now)
    assert set(FREE_ON_RESUME) == {"trials", "timeout_s", "workers", "twins"}


def test_a_study_with_other_settings_is_told_what_differs() -> None:
    began = load_study("demo")
    now = load_study(
        "demo",
        [
            "training.steps=20",
            "space.encoder.width=[16]",
            "space.training.learning_rate.low=1e-4",
            "constraints={kmac_per_px_max: 9}",
        ],
    )
    assert differences(began, now) == [
        "space.encoder.width: stored [16, 32], now 16",
        'space.training.learning_rate: stored {"low": 0.0003, "high": 0.002, "log": true}, now '
        '{"low": 0.0001, "high": 0.002, "log": true}',
        "constraints.params_max: stored 3000000.0, now null",
        "constraints.kmac_per_px_max: stored null, now 9.0",
        "training.steps: stored 10, now 20",
    ]
    assert settings_hash(began) != settings_hash(now)


def test_every_setting_but_four_is_in_the_hash() -> None:
    other = {
        "name": "b", "space": "hyperprior", "objectives": "[params]", "anchor": "jpeg",
        "trials": "9", "timeout_s": "9", "workers": "9", "sampler": "{name: gp}",
        "constraints": "{}", "data": "{crops: 99}", "energy": "{windows: 9}", "device": "cpu",
        "seed": "9", "twins": "9", "training.steps": "9", "ladder": "{rungs: [0.5]}",
        "cost_first": "true", "start": "teacher:default",
    }  # fmt: skip
    began = load_study("demo")
    same = {k for k, v in other.items() if not differences(began, load_study("demo", [f"{k}={v}"]))}
    assert same == set(FREE_ON_RESUME)
    assert {key.split(".")[0] for key in other} == set(StudyConfig.__dataclass_fields__)


def test_the_bench_is_what_the_study_says_on_the_device_that_was_found() -> None:
    study = load_study("demo", ["training.precision=bf16"])
    made = bench(study, cache=Path("runs/cache"), device="cuda:1", threads=2)
    assert (made.data, made.energy, made.anchor) == (study.data, study.energy, study.anchor)
    assert (made.device, made.threads, made.precision) == ("cuda:1", 2, "bf16")
    assert made.cache == "runs/cache"


# --- weight and wheel ------------------------------------------------------------------------


def test_reading_a_study_loads_nothing_heavy() -> None:
    code = (
        "import sys; from kdbench.check import check_files; from kdbench.store import Store;"
        "check_files();"
        "print([m for m in sys.modules if m in {'torch', 'optuna', 'numpy', 'matplotlib', 'PIL'}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_studies_spaces_and_every_package_are_in_the_wheel() -> None:
    setuptools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = REPOSITORY / "kdbench"
    folders = [path.parent for path in package.rglob("__init__.py")]
    names = {".".join(path.relative_to(REPOSITORY).parts) for path in folders}
    assert set(setuptools["packages"]) == names | {"kdbench.studies", "kdbench.search_spaces"}
    assert setuptools["package-data"]["kdbench"] == ["assets/**/*"]
    for kind in ("studies", "search_spaces"):
        assert setuptools["package-dir"][f"kdbench.{kind}"] == kind
        assert setuptools["package-data"][f"kdbench.{kind}"] == ["*.yaml"]


def test_plain_yaml_readers_see_the_same_studies_as_we_do() -> None:
    for name in ("kd_pareto", "kd_pareto_long", "frontier", "smoke"):
        tree = yaml.safe_load((REPOSITORY / f"studies/{name}.yaml").read_text())
        study = load_study(name)
        assert tree["training"]["steps"] == study.training.steps
        assert tuple(tree["training"]["rd_lambdas"]) == study.training.rd_lambdas
