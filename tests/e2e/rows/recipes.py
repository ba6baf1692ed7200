"""Study and space files, names and `--set`."""

from tests.e2e.rows.row import Row
from tests.support.desk import QUICK, data, text

FIX = "  fix: correct what is listed; `kdbench check` reads every study and space file again\n"
KNOWN = (
    "quick, smoke, frontier, kd_pareto, paper_hybrid, paper_weights, kd_pareto_long, "
    "paper_resources, paper_latent_kl, paper_autoencoder, paper_rate, paper_hyper, paper_codecs, "
    "paper_channels; or give the path of a .yaml file\n"
)
DEMO = """\
space: narrow
trials: many
objectivs: [params]
training: {steps: 1, batch: 4, crop_px: 64}
"""
IN_DEMO = (
    "studies/demo.yaml: objectives: is missing",
    'studies/demo.yaml:2: trials: got "many"; must be a whole number',
    "studies/demo.yaml:4: training.rd_lambdas: is missing",
    "studies/demo.yaml:3: objectivs: no such key; did you mean objectives?",
)
NARROW = "encoder: {width: {low: 32, high: 16}, kernel: 3}\n"


def overridden(value: str, problem: str) -> Row:
    """`--set`, and what is wrong with it."""
    return Row(command=f"search --study quick --set '{value}'", answer=f"--set: {problem}\n{FIX}")


def flagged(flag: str, problem: str) -> Row:
    """A flag that overrides a key of the study."""
    return Row(command=f"search --study quick {flag}", answer=f"--set: {problem}\n{FIX}")


def in_file(content: str | bytes, problem: str) -> Row:
    """A study file, and what is wrong with it."""
    name = "studies/demo.yaml"
    return Row(
        broken=data(name, content) if isinstance(content, bytes) else text(name, content),
        command="search --study demo",
        answer=f"{problem}\n{FIX}",
    )


ROWS = {
    "a study that nobody knows": Row(
        command="search --study quik",
        answer=f'there is no study "quik"\n  fix: known here, nearest first: {KNOWN}',
    ),
    "a study file that is not there": Row(
        command="search --study studies/quik.yaml",
        answer=f'there is no study "studies/quik.yaml"\n  fix: known here, nearest first: {KNOWN}',
    ),
    "a space that nobody knows": overridden(
        "space=hyperpior",
        'space: got "hyperpior"; there is no such space; known, nearest first: '
        "hyperprior, narrow, frontier, smoke",
    ),
    "a misspelt key": overridden(
        "training.stpes=3", "training.stpes: no such key; did you mean steps?"
    ),
    "a misspelt key at the top": overridden(
        "objectivs=[params]", "objectivs: no such key; did you mean objectives?"
    ),
    "a fraction for a count": overridden(
        "training.steps=1.5", "training.steps: got 1.5; must be a whole number"
    ),
    "a word for a number": overridden("trials=many", 'trials: got "many"; must be a whole number'),
    "a word for a width": overridden(
        "space.encoder.width=wide",
        'space.encoder.width: got "wide"; must be a whole number from 1 to 1024',
    ),
    "a kernel that no layer has": overridden(
        "space.encoder.kernel=4", "space.encoder.kernel: got 4; must be 3 or 5"
    ),
    "an empty range": overridden(
        "space.training.learning_rate={low: 0.1, high: 0.01}",
        'space.training.learning_rate: got {"low": 0.1, "high": 0.01}; the range is empty: '
        "low is above high",
    ),
    "an empty list": overridden(
        "space.encoder.width=[]",
        "space.encoder.width: got []; the list is empty; give at least one value",
    ),
    "a value twice in a list": overridden(
        "space.encoder.width=[16,16]",
        "space.encoder.width: got [16, 16]; 16 is in the list twice",
    ),
    "a range whose steps miss its end": overridden(
        "space.decoder.width={low: 8, high: 16, step: 3}",
        'space.decoder.width: got {"low": 8, "high": 16, "step": 3}; '
        "high must lie a whole number of steps above low",
    ),
    "too few points for a curve": overridden(
        "training.rd_lambdas=[0.01,0.02]",
        "training.rd_lambdas: got [0.01, 0.02]; needs at least 5 values: BD-rate compares curves",
    ),
    "levels out of order": overridden(
        "training.rd_lambdas=[5,4,3,2,1]",
        "training.rd_lambdas: got [5, 4, 3, 2, 1]; must ascend, each value once",
    ),
    "crops that cannot be halved six times": overridden(
        "training.crop_px=100", "training.crop_px: got 100; must be a multiple of 64"
    ),
    "fewer crops than a batch": overridden(
        "data.crops=2", "data.crops: got 2; must be at least training.batch, 4"
    ),
    "no objective": overridden("objectives=[]", "objectives: got []; needs at least one objective"),
    "an objective that nobody knows": overridden(
        "objectives=[bd_rate]",
        'objectives.0: got "bd_rate"; must be one of: bd_rate_pct, params, validation_loss, '
        "kmac_per_px, decode_s_per_mpx, decode_j_per_mpx, decoder_kmac_per_px, "
        "energy_j_per_mpx, encode_j_per_mpx",
    ),
    "an anchor that nobody knows": overridden(
        "anchor=jpg",
        'anchor: got "jpg"; must be teacher:NAME, file:PATH, trial:STUDY/N, '
        "zoo:MODEL/QUALITY or one of jpeg, webp, jpeg2000, avif",
    ),
    "a meter that nobody knows": overridden(
        "energy.meter=rapl",
        'energy.meter: got "rapl"; must be one of: apple, replay, powercap, pi5, nvml, auto, '
        "ina3221, codecarbon, none; or command:watts PROGRAM (command:joules)",
    ),
    "rungs that do not ascend": overridden(
        "ladder={rungs: [0.5, 0.2]}",
        "ladder.rungs: got [0.5, 0.2]; must ascend, each value once",
    ),
    "rungs in steps": overridden(
        "ladder={rungs: [100, 300]}",
        "ladder.rungs: got [100, 300]; every value must lie between 0 and 1: shares of "
        "training.steps",
    ),
    "an eta that stops nobody": overridden(
        "ladder={rungs: [0.5], eta: 1}", "ladder.eta: got 1; must be at least 2"
    ),
    "a budget smaller than the first rung": overridden(
        "ladder={rungs: [0.001, 0.5]}",
        "ladder.rungs: got [0.001, 0.5]; lie at the steps 0, 20 of 40; each must be a step of its "
        "own, before the last: take fewer rungs, or more training.steps",
    ),
    "a ladder for one model a rate": Row(
        command="search --study quick --set 'ladder={rungs: [0.5]}' --set training.rate=per_lambda",
        answer="--set: ladder: needs rate: variable; with one model a rate there is no training "
        f"to stop early\n{FIX}",
    ),
    "a limit of zero": overridden(
        "constraints.params_max=0", "constraints.params_max: got 0; must be above 0"
    ),
    "a name that belongs to the cache": overridden(
        "name=cache",
        'name: got "cache"; must be letters, digits, `-`, `_` and `.`, 100 at most, and not '
        "be `cache`",
    ),
    "a teacher without its kind": overridden(
        "space.distillation.teacher=weak",
        'space.distillation.teacher: got "weak"; must be teacher:NAME, file:PATH, '
        "zoo:MODEL/QUALITY, plugin:NAME or none",
    ),
    "a negative weight": overridden(
        "space.distillation.latent=-0.1",
        "space.distillation.latent: got -0.1; must be a number of at least 0",
    ),
    "a schedule that nobody knows": overridden(
        "space.distillation.schedule=cosine",
        'space.distillation.schedule: got "cosine"; must be constant, decaying, first_half or '
        "staged",
    ),
    "a weight that is no number": overridden(
        "space.distillation.features=.nan",
        "space.distillation.features: got NaN; must be a number of at least 0",
    ),
    "a temperature of zero": overridden(
        "space.distillation.temperature=0",
        "space.distillation.temperature: got 0; must be a number above 0",
    ),
    "a layer that no student has": Row(
        command="search --study quick --set space.distillation.teacher=teacher:default "
        "--set space.distillation.features=0.1 --set space.distillation.feature_layer=g_a.9",
        answer="study quick: space.distillation.feature_layer: a student has no layer g_a.9; it "
        "has g_a.0, g_a.1, g_a.2, g_a.3, g_a.4, g_a.5, g_a.6, g_s.0, g_s.1, g_s.2, g_s.3, g_s.4, "
        f"g_s.5, g_s.6\n{FIX}",
    ),
    "an entropy term in the paper's loss": Row(
        command="search --study quick --set space.distillation.teacher=teacher:default "
        "--set space.distillation.paper_compat=true --set space.distillation.entropy=0.1",
        answer="study quick: space.distillation.entropy: must be 0 with paper_compat: true; "
        f"the paper's loss has no such term\n{FIX}",
    ),
    "the paper's loss now and then": overridden(
        "space.distillation.paper_compat=[true,false]",
        "space.distillation.paper_compat: got [true, false]; must be true or false, one for the "
        "whole study",
    ),
    "weights of channels that nobody knows": overridden(
        "space.distillation.channel_weights=[equal,bits]",
        'space.distillation.channel_weights: got ["equal", "bits"]; every value must be equal '
        "or by_bits",
    ),
    "an override without a value": overridden(
        "trials", 'got "trials"; must read key=value or key.path=value'
    ),
    "an override that is not YAML": overridden(
        "trials=[1", "trials: got \"[1\"; is not YAML: expected ',' or ']', but got [...]"
    ),
    "an override below a plain value": overridden(
        "training.steps.more=1",
        "training.steps.more: training.steps has no keys; set it whole",
    ),
    "a negative seed": flagged("--seed -1", "seed: got -1; must be at least 0"),
    "a device of another world": flagged(
        "--device gpu", 'device: got "gpu"; must be auto, cpu, cuda or cuda:N'
    ),
    "energy minimised without a meter": Row(
        command="search --study quick --set 'objectives=[energy_j_per_mpx]'",
        answer='studies/quick.yaml:12: energy.meter: got "none"; energy_j_per_mpx needs a meter\n'
        + FIX,
    ),
    "several problems, told at once": in_file(DEMO, "4 problems:\n  " + "\n  ".join(IN_DEMO)),
    "a file that is not YAML": in_file(
        "space: [\n",
        "studies/demo.yaml:2: is not YAML: expected the node content, but found '<stream end>'",
    ),
    "a key that is there twice": in_file(
        f"trials: 3\n{QUICK}", "studies/demo.yaml:5: trials: is there twice, first on line 1"
    ),
    "a file that is not text": in_file(
        b"\xff\xfe\0", "studies/demo.yaml: cannot be read: it is not UTF-8 text"
    ),
    "a file that is a list": in_file(
        "- a list\n", 'studies/demo.yaml: got ["a list"]; must be a mapping of keys'
    ),
    "an empty file": in_file(
        "",
        "4 problems:\n  studies/demo.yaml: space: is missing\n"
        "  studies/demo.yaml: objectives: is missing\n  studies/demo.yaml: trials: is missing\n"
        "  studies/demo.yaml: training: is missing",
    ),
    "a file to check that nobody knows": Row(
        command="check quik",
        stream="out",
        answer='check: got "quik"; there is no such study, space or file; known, nearest first: '
        "quick, smoke, [...]\n",
    ),
    "a study to check with several problems": Row(
        broken=text("studies/demo.yaml", DEMO),
        command="check demo",
        stream="out",
        answer="\n".join(IN_DEMO) + "\n",
    ),
    "a space to check with several problems": Row(
        broken=text("search_spaces/small.yaml", NARROW),
        command="check small",
        stream="out",
        answer="search_spaces/small.yaml:1: encoder.width: got "
        '{"low": 32, "high": 16}; the range is empty: low is above high\n'
        "search_spaces/small.yaml:1: encoder.activation: is missing\n"
        "search_spaces/small.yaml: training: is missing\n"
        "search_spaces/small.yaml: decoder: is missing\n"
        "search_spaces/small.yaml: hyper: is missing\n"
        "search_spaces/small.yaml: latent: is missing\n",
    ),
}
