#!/usr/bin/env bash
# Installs the Debian packages of system.txt that are missing, as root or with sudo that asks for no password.
#
#   requirements/system.sh           install what is missing; exit 1 only with CI=true if something stays missing
#   requirements/system.sh missing   print the names of missing packages
set -euo pipefail
cd "$(dirname "$0")"

missing() {
  local package
  while read -r package _; do
    case "$package" in '' | '#'*) continue ;; esac
    dpkg -s "$package" >/dev/null 2>&1 || echo "$package"
  done <system.txt
}

command -v dpkg >/dev/null || { [ "${1:-}" = missing ] || echo "no dpkg here: system packages are left to you (requirements/system.txt)"; exit 0; }
mapfile -t need < <(missing)
if [ "${1:-}" = missing ]; then
  printf '%s\n' "${need[@]}"
  exit 0
fi
[ ${#need[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ]; then as_root=()
elif sudo -n true 2>/dev/null; then as_root=(sudo -n)
else
  echo "not installed, and no right to install: ${need[*]}" >&2
  [ "${CI:-}" != true ]
  exit
fi
echo "installing ${need[*]} (once)"
export DEBIAN_FRONTEND=noninteractive
if ! { "${as_root[@]}" apt-get update -qq && "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${need[@]}"; } >system.log 2>&1; then
  tail -n 5 system.log >&2
  echo "could not install ${need[*]}; the whole log is requirements/system.log" >&2
  [ "${CI:-}" != true ]
fi
