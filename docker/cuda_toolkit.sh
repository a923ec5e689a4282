#!/bin/sh
# cuda_toolkit REQUIREMENTS: installs the CUDA compiler and its libraries from their wheels, as /usr/local/cuda.
set -eu
/build/bin/pip install --quiet --no-deps --require-hashes -r "$1"
toolkit=$(/build/bin/python -c 'import nvidia; print(list(nvidia.__path__)[0])')/cu13
ln -s "$toolkit" /usr/local/cuda
# CMake looks for lib64 and for names without versions; wheels have neither.
ln -s lib "$toolkit/lib64"
for library in "$toolkit"/lib/*.so.*; do
    plain=${library%%.so.*}.so
    [ -e "$plain" ] || ln -s "$(basename "$library")" "$plain"
done
# The driver's own library comes from the machine that runs the image. To name it as needed, the linker wants one of its
# name with its functions.
mkdir -p "$toolkit/lib/stubs"
grep -oE 'CUDAAPI cu[A-Z][A-Za-z0-9_]*' "$toolkit/include/cuda.h" | sort -u |
    sed 's/^CUDAAPI \(.*\)$/void \1(void) {}/' |
    c++ -shared -x c - -Wl,-soname,libcuda.so.1 -o "$toolkit/lib/stubs/libcuda.so"
