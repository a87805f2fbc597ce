"""Ray, imported in the environment that a search needs: import it from here alone."""

import os

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # the study and MLflow are the record; Ray's loggers would write everything a second time
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    # without a limit of its own it would start one worker after another; the searcher gives out what there is room for
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",
}
for _key, _value in ENVIRONMENT.items():
    os.environ.setdefault(_key, _value)

# Ray reads the environment when it is imported
import ray  # noqa: E402
from ray import tune  # noqa: E402

__all__ = ["ENVIRONMENT", "ray", "tune"]
