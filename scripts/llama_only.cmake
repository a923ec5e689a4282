# Included by CMake right after llama.cpp's own project() call (CMAKE_PROJECT_<name>_INCLUDE).
#
# llama-cpp-python forces LLAMA_BUILD_COMMON on in the CMake cache, which compiles the command-line
# helpers (argument parser, chat templates, HTTP client) that its C API never loads. A normal variable of
# the same name hides the cached one from here on, and only libllama and ggml are built.
set(LLAMA_BUILD_COMMON OFF)
