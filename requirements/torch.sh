#!/usr/bin/env bash
# Installs torch into an environment: the CPU build where the machine has no NVIDIA GPU and one is to be had.
#
#   requirements/torch.sh PYTHON REQUIREMENT      for example: .venv/bin/python torch==2.13.0
#
# TORCH_INDEX chooses another package index. Without it: the file that pip finds, if it is a CPU build or the
# machine has a GPU; else PyTorch's index of CPU builds; else, if that cannot be reached, what pip finds.
set -euo pipefail
python=$1 torch=$2
cpu_index=https://download.pytorch.org/whl/cpu
pip=("$python" -m pip install -q --disable-pip-version-check)

if "$python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '${torch##*==}')" 2>/dev/null; then
  exit 0
fi
if [ -n "${TORCH_INDEX:-}" ]; then
  exec "${pip[@]}" --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple "$torch"
fi
if [ -e /dev/nvidiactl ]; then
  exec "${pip[@]}" "$torch"
fi
found=$("${pip[@]}" --dry-run --no-deps --ignore-installed --report - "$torch" 2>/dev/null |
  "$python" -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["download_info"]["url"])' || true)
case "$found" in
  *cpu*) exec "${pip[@]}" "$torch" ;;
esac
if "${pip[@]}" --timeout 5 --retries 0 --index-url "$cpu_index" "$torch" 2>/dev/null; then
  exit 0
fi
echo "PyTorch's index of CPU builds cannot be reached ($cpu_index): installing the default build, several GB with CUDA." \
  "TORCH_INDEX=URL names another index." >&2
exec "${pip[@]}" "$torch"
