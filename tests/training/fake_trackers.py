"""Stand-ins for wandb and mlflow that record how they are called.

They hold the few functions that residua calls, with the signatures of wandb 0.31 and mlflow 3.17,
and behave as these do: a step of Weights & Biases never goes back, and MLflow keeps every value.
"""

import sys
from types import ModuleType, SimpleNamespace


class FakeWandbRun:
    def __init__(self, settings):
        self.settings, self.rows, self.summary, self.exit_codes = settings, [], {}, []

    def log(self, data, step):
        if not self.rows or step > self.rows[-1][0]:
            self.rows.append((step, data))

    def finish(self, exit_code):
        self.exit_codes.append(exit_code)


def install_fake_wandb(monkeypatch):
    """Install a fake wandb; returns the runs that it will hold, by id."""
    runs = {}

    def init(*, project, id, name, dir, config, resume, reinit, settings):
        assert (resume, reinit) == ("allow", "create_new")
        run = runs.setdefault(id, FakeWandbRun({"project": project, "name": name, "dir": dir}))
        run.settings["config"] = config
        return run

    wandb = ModuleType("wandb")
    wandb.init, wandb.Settings = init, SimpleNamespace
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return runs


class FakeMlflowClient:
    def __init__(self, runs):
        self.runs = runs

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        return f"the experiment {name}"

    def create_run(self, experiment_id, *, run_name):
        run_id = f"run {len(self.runs)}"
        self.runs[run_id] = {"experiment": experiment_id, "name": run_name, "states": []}
        self.runs[run_id] |= {"metrics": [], "params": []}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def log_batch(self, run_id, metrics=(), params=()):
        assert len(params) <= 100
        self.runs[run_id]["metrics"] += metrics
        self.runs[run_id]["params"] += params

    def update_run(self, run_id, status):
        self.runs[run_id]["states"].append(status)

    def set_terminated(self, run_id, status):
        self.runs[run_id]["states"].append(status)


def install_fake_mlflow(monkeypatch):
    """Install a fake mlflow; returns the runs that it will hold, by id."""
    runs = {}
    modules = {name: ModuleType(name) for name in ("mlflow", "mlflow.entities", "mlflow.tracking")}
    modules["mlflow.entities"].Metric = lambda key, value, timestamp, step: (key, value, step)
    modules["mlflow.entities"].Param = lambda key, value: (key, value)
    modules["mlflow.tracking"].MlflowClient = lambda: FakeMlflowClient(runs)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return runs
