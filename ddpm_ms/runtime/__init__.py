"""Device, execution mode, ranks, environment variables, versions and caches: nobody else in the package reads an environment
variable or calls ``set_device``, ``set_context``, ``init`` or ``get_rank``.

`setup` starts all of it in the order that MindSpore forces. MindSpore is imported inside the functions, so that importing this
room starts nothing. What ranks tell each other is in `ddpm_ms.runtime.ranks`.
"""

from ddpm_ms.runtime.caches import Held, cache_dir, clear, held
from ddpm_ms.runtime.devices import DEVICES, Runtime, device_target, is_portable, native_library, portable, seed_weights
from ddpm_ms.runtime.files import INCEPTION, inception_file
from ddpm_ms.runtime.graphs import CompileCache, compiled, is_compiling, kept
from ddpm_ms.runtime.start import current, quiet, setup
from ddpm_ms.runtime.versions import check_versions, environment

__all__ = ["DEVICES", "INCEPTION", "CompileCache", "Held", "Runtime", "cache_dir", "check_versions", "clear", "compiled",
           "current", "device_target", "environment", "held", "inception_file", "is_compiling", "is_portable", "kept",
           "native_library", "portable", "quiet", "seed_weights", "setup"]
