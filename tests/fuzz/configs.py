"""Hostile settings for any command: its own configuration says which keys there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf

from threeshnet.overrides import divided

from .arena import GOOD, ROOT, Arena
from .attempts import Attempt
from .nonsense import Generator, pick

CONF = ROOT / "conf"
VALUES = ("abc", "''", "null", "-1", "0", "1", "1.5", "1e308", "nan", "inf", "-inf", "true", "false", "[]")
VALUES += ("[1,2]", "{}", "{a:1}", "${nowhere}", "'${oc.env:NO_SUCH_VARIABLE}'", "'${'", "'???'", "ü€", "0x10")
VALUES += ("1_000", "'null'", "[[[[]]]]", "'\\x00'", "a/../../b", "-0.0", "'a b'", "'a=b'", "'*'", "[abc]")
VALUES += ("'${oc.create:{a:1}}'", "~", "''''")
VALUES += ("${oc.env:HOSTILE_CANARY}", "${oc.decode:${oc.env:HOSTILE_CANARY}}", "'${now:}'", "'${now:%Y}'", "${seed}")
VALUES += ("${hydra:runtime.cwd}", "'${oc.env:NO,${oc.env:HOSTILE_CANARY}}'", "'\\\\${seed}'", "'${.}'", "'${..}'")
VALUES += ("'${no_such_resolver:1}'", "'${oc.dict.keys:x}'", "'${oc.select:nowhere,1}'")
BUILT = ("{_target_:os.mkdir,path:executed}", "{_target_:os.system,_args_:[touch executed]}")
BUILT += ("{_target_:builtins.open,file:executed,mode:w}", "{_target_:torch.save,obj:1,f:executed}")
BUILT += ("{_target_:threeshnet.files.write_text,file:executed,text:a}", "{_target_:numpy.save,file:executed,arr:1}")
BUILT += ("{_target_:hydra.utils.instantiate,config:{_target_:os.mkdir,path:executed}}", "{_target_:5}")
BUILT += (
    "{_target_:subprocess.run,args:[touch,executed]}",
    "{_instantiator:os.mkdir,path:executed}",
    "{_target_:'${'}",
)
HUGE = ("1" + "0" * 30, "-1" + "0" * 30, "10000000000", "-10000000000", "x" * 5000)
UNBOUNDED = {  # a huge number is a sensible wish here: it takes long, or starts as many processes
    *("trainer.max_steps", "trainer.max_epochs", "trainer.devices", "images", "batches.workers", "workers"),
    *("data.extractor.region_width", "data.extractor.grid_width", "data.extractor.classes"),
}
BAD_WORDS = ("=", "a", "a=", "=b", "a=[1", "a='b", "+", "+a", "~", "~~a", "a.b.c.d=1", "a@b=c", "+seed=1", "'")
BAD_WORDS += ("a=${", "--no-such-flag", "fusion=[semantic,nowhere]", "parts=nowhere", "text=[bert]")
BAD_WORDS += ("objective=null", "logger=nowhere", "data=x/y", "+experiment=region_demo", "++seed=abc")
BAD_WORDS += ("hydra.run.dir=/proc/x", "hydra/launcher=nowhere", "data@x=demo")
SHORTEST_VALUE = 3  # letters of a value that stand in a message for no other reason
ORDINARY = {"null", "true", "false", "nan", "inf", "-inf", "1.5"}  # words that may: naming them names nothing


def configs(command: str) -> Callable[[Arena, Path, Generator], Attempt]:
    """Settings of a command with other values than they can have, keys that do not exist, choices that do not."""

    def made(arena: Arena, folder: Path, generator: Generator) -> Attempt:
        del folder
        good = GOOD[command](arena) if command in GOOD else []
        way = generator.integers(10)
        if way == 0:
            word = str(pick(generator, BAD_WORDS))
            return Attempt([*good, word], word, (), own_conf=True)
        keys = [key for key, _ in leaves(config_of(command, good))]
        chosen = [str(pick(generator, keys)) for _ in range(int(generator.integers(1, 3)))]
        words = [changed(key, generator) for key in chosen]
        kept = [word for word in good if word.split("=")[0].lstrip("+") not in chosen]
        names = tuple(part for key in chosen for part in (key, key.rsplit(".", 1)[-1]))
        names += tuple(".".join(key.removesuffix("._target_").split(".")[-2:]) for key in chosen)
        names += tuple(value for word in words if telling(value := word.partition("=")[2].strip("'\"")))
        if command == "search":
            names += ("last.ckpt",)  # which cannot encode photos
        if command not in GOOD:
            names += ("= is missing",)  # what has to be given is refused first
        return Attempt([*kept, *words], " ".join(words)[:300], names, own_conf=True)

    return made


def telling(value: str) -> bool:
    """Whether a message that holds this value can have it from the setting alone."""
    return len(value) >= SHORTEST_VALUE and value not in ORDINARY


def changed(key: str, generator: Generator) -> str:
    """An override of a key that was not meant so."""
    way = generator.integers(12)
    if way == 0:
        return f"~{key}"
    if way == 1:
        return f"+{key}.more={pick(generator, VALUES)}"
    if way == 2:
        return f"{key}x={pick(generator, VALUES)}"
    if key.endswith("_target_"):
        return (
            f"{key}={pick(generator, ('nowhere.Nothing', 'builtins.int', 'threeshnet.nn.mlp.MLP', '5', 'null', 'x'))}"
        )
    several = BUILT if way == 3 else VALUES if key in UNBOUNDED else (*VALUES, *HUGE)
    return f"{key}={pick(generator, several)}"


def config_of(command: str, words: list[str]) -> DictConfig:
    """What a command would work with."""
    GlobalHydra.instance().clear()
    own = [word for word in words if not word.startswith("-")]
    if command == "sweep":  # the others are of `train`
        own = divided(own, [str(key) for key in OmegaConf.load(CONF / "sweep.yaml")])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, own)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its path; interpolations are settings as they stand."""
    for key in node:
        name, value = f"{prefix}{key}", node._get_node(key)
        yield name, value
        if isinstance(value, DictConfig) and not (value._is_none() or value._is_missing() or value._is_interpolation()):
            yield from leaves(value, f"{name}.")
        elif isinstance(value, ListConfig):
            continue
