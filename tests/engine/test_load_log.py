"""Lines that llama.cpp has really said, on a CPU, with CUDA and on a Mac."""

from __future__ import annotations

import ctypes

import pytest

from appliance.engine.llama import library
from appliance.engine.llama.context import CACHE_TYPES
from appliance.engine.llama.load_log import LoadLog, buffer_in
from appliance.engine.messages import Buffer
from appliance.errors import EngineFailed, EngineOutOfMemory

MIB = 1 << 20
INFO, ERROR = 2, 4

NO_ROOM = [
    "ggml_aligned_malloc: insufficient memory (attempted to allocate 23040.00 MB)\n",
    "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 24159191040\n",
    "alloc_tensor_range: failed to allocate CPU buffer of size 24159191040\n",
    "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache\n",
]
NO_ROOM_ON_GPU = [
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 440.50 MiB on device 0: cudaMalloc failed: out of memory\n",
    "alloc_tensor_range: failed to allocate CUDA0 buffer of size 4617408512\n",
    "llama_model_load: error loading model: unable to allocate CUDA0 buffer\n",
    "llama_model_load_from_file_impl: failed to load model\n",
]
NO_FILE = [
    "gguf_init_from_file: failed to open GGUF file '/nowhere' (No such file or directory)\n",
    "llama_model_load: error loading model: llama_model_loader: failed to load model from /nowhere\n",
    "llama_model_load_from_file_impl: failed to load model\n",
]
NO_SUCH_CACHE = ["llama_init_from_model: K cache type q8_0 with block size 32 does not divide n_embd_head_k=80\n"]


@pytest.mark.parametrize(
    ("line", "buffer"),
    [
        ("load_tensors:   CPU_Mapped model buffer size =    92.10 MiB", Buffer("CPU_Mapped", "weights", 92.10)),
        ("load_tensors:   CPU_REPACK model buffer size =  1234.50 MiB", Buffer("CPU_REPACK", "weights", 1234.50)),
        ("load_tensors:        CUDA0 model buffer size =  4403.50 MiB", Buffer("CUDA0", "weights", 4403.50)),
        ("load_tensors:  MTL0_Mapped model buffer size = 12345.67 MiB", Buffer("MTL0_Mapped", "weights", 12345.67)),
        ("load:        CPU LoRA buffer size =     9.00 MiB", Buffer("CPU", "weights", 9)),
        ("llama_context:        CPU  output buffer size =     7.69 MiB", Buffer("CPU", "output", 7.69)),
        ("llama_kv_cache:      CUDA0 KV buffer size =    45.00 MiB", Buffer("CUDA0", "kv", 45)),
        ("llama_memory_recurrent:        CPU RS buffer size =    19.12 MiB", Buffer("CPU", "kv", 19.12)),
        ("dsv4_comp_state:      CUDA1 DSV4 csa state buffer size =     3.25 MiB", Buffer("CUDA1", "kv", 3.25)),
        ("sched_reserve:  CUDA_Host compute buffer size =   102.69 MiB", Buffer("CUDA_Host", "compute", 102.69)),
    ],
)
def test_a_buffer_is_read_from_its_line(line: str, buffer: Buffer) -> None:
    assert buffer_in(line) == Buffer(buffer.device, buffer.kind, round(buffer.n_bytes * MIB))


@pytest.mark.parametrize(
    "line",
    [
        "~llama_context:        CPU compute buffer size is 102.6875 MiB, matches expectation of 102.6875 MiB",
        "llama_kv_cache: size =   45.00 MiB (  2048 cells,  30 layers, 41/1 seqs), K (f16):   22.50 MiB",
        "load_tensors: offloaded 0/31 layers to GPU",
    ],
)
def test_other_lines_are_no_buffers(line: str) -> None:
    assert buffer_in(line) is None


def say(level: int, line: str) -> None:
    """As llama.cpp does."""
    callback, data = library.lib.llama_log_callback(), ctypes.c_void_p()
    library.lib._lib.llama_log_get(ctypes.byref(callback), ctypes.byref(data))
    callback(level, line.encode(), data)


def test_buffers_of_one_device_and_kind_are_added() -> None:
    with LoadLog() as log:
        for size in ("12.00", "30.00"):  # a model with a sliding window has two caches
            say(INFO, f"llama_kv_cache:        CPU KV buffer size =    {size} MiB\n")
        say(INFO, "sched_reserve:        CPU compute buffer size =   102.69 MiB\n")
        say(INFO, "load_tensors: offloaded 17/31 layers to GPU\n")
    assert log.buffers == (Buffer("CPU", "kv", 42 * MIB), Buffer("CPU", "compute", round(102.69 * MIB)))
    assert log.n_gpu_layers == 17


@pytest.mark.parametrize(
    ("lines", "kind", "reason"),
    [
        (NO_ROOM, EngineOutOfMemory, "attempted to allocate 23040.00 MB"),
        (NO_ROOM_ON_GPU, EngineOutOfMemory, "allocating 440.50 MiB on device 0: cudaMalloc failed: out of memory"),
        (["llama_init_from_model: failed to initialize the context: std::bad_alloc\n"], EngineOutOfMemory, "bad_alloc"),
        (["llama_model_load: error loading model: mmap failed: Cannot allocate memory\n"], EngineOutOfMemory, "mmap"),
        (NO_FILE, EngineFailed, "failed to open GGUF file '/nowhere' (No such file or directory)"),
        (NO_SUCH_CACHE, EngineFailed, "K cache type q8_0 with block size 32 does not divide n_embd_head_k=80"),
        ([], EngineFailed, "gives no reason"),
    ],
)
def test_an_error_has_the_reason_and_knows_a_want_of_memory(
    lines: list[str], kind: type[EngineFailed], reason: str
) -> None:
    with LoadLog() as log:
        for line in lines:
            say(ERROR, line)
    error = log.error("can't load it")
    assert type(error) is kind
    assert reason in error.message
    assert "failed to load model;" not in error.message


def test_who_heard_the_log_before_still_does() -> None:
    heard = []

    @library.lib.llama_log_callback  # type: ignore[untyped-decorator]
    def listen(level: int, text: bytes, user_data: object) -> None:
        heard.append(text)

    library.lib.llama_log_set(listen, None)
    try:
        with LoadLog():
            say(INFO, "while it is loaded\n")
        say(INFO, "afterwards\n")
    finally:
        library.start()
    assert heard == [b"while it is loaded\n", b"afterwards\n"]


def test_the_types_of_a_cache_are_those_of_ggml() -> None:
    name_of = library.ggml.ggml_type_name
    name_of.argtypes, name_of.restype = [ctypes.c_int], ctypes.c_char_p
    assert {name: name_of(number).decode() for name, number in CACHE_TYPES.items()} == {n: n for n in CACHE_TYPES}
