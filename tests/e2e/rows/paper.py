"""The paper's studies: rates, hybrids, lists of students and codecs that cannot be."""

from tests.e2e.rows.recipes import FIX, overridden
from tests.e2e.rows.row import Row

FOLDER = "torch/hub/checkpoints"  # `here` sets TORCH_HOME
FILE = "bmshj2018-hyperprior-5-f8b614e1.pth.tar"
MISSING = (
    f"zoo:bmshj2018-hyperprior/5 needs the file {FILE}, which is not in HERE/{FOLDER}\n"
    f"  fix: put it there where there is a network: `curl --create-dirs -o HERE/{FOLDER}/{FILE} "
    f"https://compressai.s3.amazonaws.com/models/v1/{FILE}`; TORCH_HOME names another folder; "
    "kdbench never downloads\n"
)
TEACHER = "space.distillation.teacher"
ONE_RATE = "--set training.rd_lambdas=[0.013] --set objectives=[kmac_per_px]"


def quick(sets: str, answer: str) -> Row:
    """The quick study with more than one override."""
    return Row(command=f"search --study quick {sets}", answer=f"{answer}\n{FIX}")


def listed(points: str, problem: str, trials: int = 1) -> Row:
    """Students that are listed."""
    sampler = f"'sampler={{name: listed, points: [{points}]}}'"
    return quick(f"--set {sampler} --trials {trials}", problem)


ROWS = {
    "a rate that nobody knows": overridden(
        "training.rate=per_lamda",
        'training.rate: got "per_lamda"; must be one of: per_lambda, variable, none',
    ),
    "a model a rate, too few for a curve": quick(
        "--set training.rate=per_lambda --set 'training.rd_lambdas=[0.0067,0.013,0.025]'",
        "--set: training.rd_lambdas: got [0.0067, 0.013, 0.025]; needs at least 5 values, for a "
        "curve, or one alone with rate: per_lambda",
    ),
    "a BD-rate of a single point": quick(
        "--set training.rate=per_lambda --set training.rd_lambdas=[0.013]",
        "studies/quick.yaml:2: objectives: bd_rate_pct needs a curve, and a study of one rd_lambda "
        "has a point; take validation_loss",
    ),
    "an auto-encoder of several rates": quick(
        "--set training.rate=none --set objectives=[kmac_per_px]",
        "studies/quick.yaml:11: training.rd_lambdas: got [0.0018, 0.0035, 0.0067, 0.013, 0.025]; "
        "needs one value with rate: none; without bits there is no trade to make a curve of",
    ),
    "an auto-encoder whose entropy model is distilled": quick(
        f"--set training.rate=none {ONE_RATE} --set {TEACHER}=teacher:default "
        "--set space.distillation.entropy=0.1",
        "--set: space.distillation.entropy: must be 0 with rate: none; it is about bits, which an "
        "auto-encoder does not count",
    ),
    "a model a rate, some of which nobody guides": quick(
        f"--set training.rate=per_lambda --set {TEACHER}=zoo:bmshj2018-hyperprior/1-3",
        f"--set: {TEACHER}: zoo:bmshj2018-hyperprior/1-3 guides no model of rd_lambda 0.013, "
        "0.025; take a range that has them, or distillation.guides: every",
    ),
    "a teacher of many rates for every level": Row(
        command=f"search --study quick --set {TEACHER}=teacher:default "
        "--set space.distillation.guides=every",
        answer="teacher:default has levels of its own, and `distillation.guides: every` is for a "
        "teacher of one rate\n  fix: set `distillation.guides` to matched, or name one model, "
        "zoo:MODEL/QUALITY\n",
    ),
    "a hybrid with a key that nobody knows": overridden(
        f"{TEACHER}={{latents: teacher:default}}",
        f'{TEACHER}: got {{"latents": "teacher:default"}}; a hybrid has the keys latent, '
        "hyper_latent, output, not latents",
    ),
    "a hybrid of no teacher": overridden(
        f"{TEACHER}={{latent: none}}",
        f'{TEACHER}: got {{"latent": "none"}}; latent of a hybrid must be teacher:NAME, file:PATH, '
        'zoo:MODEL/QUALITY or plugin:NAME, not "none"',
    ),
    "a hybrid without a teacher for a term": quick(
        f"--set '{TEACHER}={{latent: teacher:default}}' --set space.distillation.output=0.1",
        "study quick: space.distillation.output: must be 0, or the hybrid needs a teacher for "
        "output; it names latent",
    ),
    "a hybrid of which a file of the zoo is not there": Row(
        command=f"search --study quick --set '{TEACHER}={{latent: teacher:default, "
        "output: zoo:bmshj2018-hyperprior/5}' --set space.distillation.output=0.1",
        answer=MISSING,
    ),
    "a latent loss that nobody knows": overridden(
        "space.distillation.latent_loss=kld",
        'space.distillation.latent_loss: got "kld"; must be mse or kl',
    ),
    "listed students without a list": overridden(
        "sampler.name=listed", 'sampler.name: got "listed"; needs sampler.points'
    ),
    "a listed student that is not in the space": listed(
        "{encoder.width: 28}", "--set: sampler.points.0.encoder.width: got 28; is not in the space"
    ),
    "a listed student that leaves something open": listed(
        "{}", "--set: sampler.points.0: must name encoder.width, too: the space leaves it open"
    ),
    "another number of trials than of listed students": listed(
        "{encoder.width: 24}",
        "--set: trials: got 2; must be the number of sampler.points, 1",
        trials=2,
    ),
    "an anchor of the zoo that only teaches": overridden(
        "anchor=zoo:mbt2018/3",
        'anchor: got "zoo:mbt2018/3"; of the zoo only bmshj2018-hyperprior codes; the others teach',
    ),
    "Kodak that is not there": Row(
        command="search --study paper_codecs",
        answer="no folder datasets/kodak with photos for evaluation\n  fix: set data.evaluation to "
        "`builtin` or to a folder that exists\n",
    ),
    "Vimeo-90K that is not there": Row(
        command=f"search --study paper_channels --set {TEACHER}=teacher:default --set "
        "anchor=teacher:default --set training.rd_lambdas=[0.025]",
        answer="no folder datasets/vimeo_90k/train with photos for train\n  fix: set data.train to "
        "`builtin` or to a folder that exists\n",
    ),
    "a study of the paper without the zoo's file": Row(
        command="search --study paper_channels", answer=MISSING
    ),
    "a list of codecs of which one is not there": Row(
        command="search --study paper_codecs --set data.evaluation=photos/evaluation",
        answer=MISSING,
    ),
    "a list of no codecs": Row(
        command="search --study paper_codecs --set codecs=[]",
        answer=f"--set: codecs: got []; needs at least one codec\n{FIX}",
    ),
    "a codec of the zoo that only teaches": Row(
        command="bench zoo:mbt2018/3",
        answer="zoo:mbt2018/3 can teach, but kdbench does not code with it: of the zoo only "
        "bmshj2018-hyperprior is a model of its own kind\n  fix: name "
        "zoo:bmshj2018-hyperprior/QUALITY\n",
    ),
}
