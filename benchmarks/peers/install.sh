#!/usr/bin/env bash
# Makes the environments that benchmarks/serving.py runs other engines in, and that slow tests need: install.sh UV DIR [UV OPTIONS FOR TORCH].
# One that fails leaves the others as they are. llama.cpp is compiled for this machine, which takes a while.
set -uo pipefail
uv=$1 dir=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
failed=()

environment() {  # NAME OPTIONS: an empty environment
  "$uv" venv -q --allow-existing --python 3.11 "${@:2}" "$dir/$1"
}

python_engine() {  # NAME OPTIONS: all that NAME.txt pins
  local name=$1
  shift
  environment "$name" && "$uv" pip install -q --python "$dir/$name/bin/python" "$@" -r "$here/$name.txt"
}

llamacpp() {
  local bin="$dir/llamacpp/bin" source
  [ -x "$bin/llama-server" ] && return
  source=$(mktemp -d) || return
  environment llamacpp --seed &&
    grep -v '^llama-cpp-python' "$here/llamacpp.txt" | "$uv" pip install -q --python "$bin/python" -r - &&
    "$bin/python" -m pip download -q --no-deps --no-binary llama-cpp-python -d "$source" \
      "$(grep '^llama-cpp-python' "$here/llamacpp.txt")" &&
    tar -xzf "$source"/*.tar.gz -C "$source" --strip-components 1 &&
    PATH="$bin:$PATH" cmake -S "$source/vendor/llama.cpp" -B "$source/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
      -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF \
      -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF >"$source/cmake.log" &&
    PATH="$bin:$PATH" cmake --build "$source/build" --target llama-server >"$source/build.log" &&
    install "$source/build/bin/llama-server" "$bin/"
  local result=$?
  rm -rf "$source"
  return $result
}

ray() {  # on the environment that uv lies in, so that torch is there once
  local ours="${uv%/*}/python" site='import sysconfig; print(sysconfig.get_path("purelib"))'
  "$uv" venv -q --allow-existing --python "$ours" "$dir/ray" &&
    "$uv" pip install -q --no-deps --python "$dir/ray/bin/python" -r "$here/ray.txt" &&
    echo "import site; site.addsitedir('$("$ours" -c "$site")')" >"$("$dir/ray/bin/python" -c "$site")/plural.pth"
}

python_engine peft "$@" || failed+=(peft)
python_engine s3 || failed+=(s3)
ray || failed+=(ray)
# What vLLM reads pictures and sound with comes built for CUDA from the registry, and stops beside a torch for CPUs.
python_engine vllm "$@" && "$uv" pip uninstall -q --python "$dir/vllm/bin/python" torchvision torchaudio torchcodec || failed+=(vllm)
llamacpp || failed+=(llamacpp)
if [ ${#failed[@]} -gt 0 ]; then
  echo "not installed: ${failed[*]}; make bench goes on without" >&2
  exit 1
fi
